/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the kernel side and the agent share. Rust takes these types from the object's BTF. Fixed-width integers
 * and arrays only, no implicit padding; a field that ends in _be is in network byte order.
 */
#ifndef PALISADE_ABI_H
#define PALISADE_ABI_H

#include <linux/types.h>

/* Raised when a map or a meaning below changes: pins of another version are not adopted. */
#define ABI_VERSION 2
/* Raised when ct4, ct6 or what they hold changes its meaning: flows of another version are not carried from one ABI to the next. */
#define FLOWS_VERSION 1

/* Index of a direction everywhere, as the pod sees it. */
enum direction {
	INGRESS = 0,
	EGRESS = 1,
};

/* Rule set ids with a meaning of their own; content hashes start at PSID_FIRST. */
enum psid {
	PSID_OPEN = 0,
	PSID_UNKNOWN = 1,
	PSID_FIRST = 16,
};

/*
 * Set in a direction's psid: what the rule set does not allow passes, and audited_by takes it. Rows know the psid without it, so
 * that one store takes a direction into audit and out of it. Likewise marks a counters index in a verdict that says so.
 */
#define AUDITED 2147483648 /* 1 << 31 */

/* pod_if: ifindex of a host-side veth -> whose it is. */
struct pod_if {
	__u32 slot;
	__u32 flags;
};

/* pod_state: slot -> the pod. mmapable: a direction flips with one aligned 8-byte store. */
struct pod_state {
	__u64 direction[2];  /* psid << 32 | generation; the highest bit: AUDITED */
	__u32 denied_by[2];  /* counters index that takes what policy denies; 0: none */
	__u32 ifindex;       /* 0: slot is free */
	__u32 flags;         /* enum pod_flags */
	__u32 addr6_be[4];   /* first own IPv6 address, zero if none */
	__u32 addr4_be;      /* first own IPv4 address, zero if none */
	__u32 audited_by[2]; /* counters index that takes what policy in audit would deny; 0: none */
	__u32 reserved;
};

enum pod_flags {
	POD_SOURCES4 = 1, /* source4 has further prefixes of this slot */
	POD_SOURCES6 = 2,
	POD_LOG_ALLOWED = 4, /* its first packets allowed are reported too, whatever control.log_allowed says */
};

/* control: one entry, mmapable. */
struct control {
	__u32 abi_version;
	__u32 epoch;      /* raised when an address leaves or changes class: flows are judged anew */
	__u32 networks4;  /* prefixes in net4; 0 skips the lookup */
	__u32 networks6;
	__u32 log_allowed; /* 1: first packets allowed are reported on the ring too */
	__u32 flows_version;
	__u32 reserved[10];
};

/* ip4: __u32 address_be -> __u32 class. */
struct ip6_key {
	__u32 addr_be[4];
};

struct net4_key {
	__u32 prefix; /* bits */
	__u32 addr_be;
};

struct net6_key {
	__u32 prefix;
	__u32 addr_be[4];
};

/* source4, source6: what a slot may send from besides its first addresses. The slot is part of the prefix (32 bits more). */
struct source4_key {
	__u32 prefix;
	__u32 slot;
	__u32 addr_be;
};

struct source6_key {
	__u32 prefix;
	__u32 slot;
	__u32 addr_be[4];
};

struct row_key {
	__u32 psid;
	__u32 class_id;
};

/* row: absent = deny. */
struct row {
	__u32 l4;   /* enum l4_root or an l4 node id */
	__u32 rule; /* counters index, for L4_ALLOW */
};

enum l4_root {
	L4_DENY = 0,
	L4_ALLOW = 1,
	L4_FIRST = 2, /* smallest node id */
};

#define L4_FANOUT 32
#define L4_LEVELS 4 /* 32^4 intervals; a table that wants more is refused */

/*
 * l4: node of a B-tree over protocol << 16 | port. Entry i holds from first[i] up to first[i + 1]; first[0] of the
 * leftmost path is 0. Leaf (level 0): target 0 denies, another allows and is the counters index. Inner: child id.
 */
struct l4_node {
	__u32 level;
	__u32 count;
	__u32 first[L4_FANOUT];
	__u32 target[L4_FANOUT];
};

/*
 * counters: one per-CPU array for both kinds. Below COUNTER_FIRST: COUNTER(reason, direction). From there on: one
 * index a rule or isolation, given out by the agent and remembered in rule_index.
 */
struct counter {
	__u64 packets;
	__u64 bytes;
};

#define COUNTER(reason, direction) ((reason) << 1 | (direction))
#define COUNTER_FIRST 64

/* Why a packet passed or fell, where no policy is to be named. Part of the metrics' contract: append only. */
enum reason {
	REASON_NONE = 0,        /* a policy decided */
	/* passed */
	REASON_OPEN = 1,        /* no policy selects the pod in this direction */
	REASON_NODE = 2,        /* the node's own sockets sent it, or it answers that */
	REASON_SELF = 3,        /* the pod reaches itself */
	REASON_NEIGHBOUR = 4,   /* ARP, neighbour discovery, MLD */
	REASON_ICMP_ERROR = 5,  /* quotes an allowed flow */
	/* dropped */
	REASON_FIRST_DROP = 8,
	REASON_UNKNOWN_POD = 8, /* nothing is known yet of the interface's pod */
	REASON_SPOOFED = 9,     /* source address, ARP sender or advertised target is not the pod's own */
	REASON_MALFORMED = 10,  /* truncated, or lengths that contradict each other */
	REASON_VLAN = 11,
	REASON_ETHERTYPE = 12,
	REASON_FRAGMENT = 13,   /* its first fragment was not seen, or not allowed */
	REASON_OVERLAP = 14,    /* fragment that could rewrite ports or flags (RFC 1858, RFC 3128) */
	REASON_EXTENSION = 15,  /* more IPv6 extension headers than are walked, or a routing header with segments left */
	REASON_UNRELATED = 16,  /* ICMP error that quotes no allowed flow */
	REASON_ROUTER = 17,     /* router advertisement or redirect */
	REASON_COUNT = 18,
};

/*
 * ct4, ct6: one entry a flow, found from both programs by the same key. Ports of ICMP echo: the identifier, on the
 * side of the one that asks; other protocols without ports: 0.
 */
struct ct4_key {
	__u32 ifindex;
	__u32 local_be;
	__u32 remote_be;
	__u16 local_port_be;
	__u16 remote_port_be;
	__u8 protocol;
	__u8 reserved[3];
};

struct ct6_key {
	__u32 ifindex;
	__u32 local_be[4];
	__u32 remote_be[4];
	__u16 local_port_be;
	__u16 remote_port_be;
	__u8 protocol;
	__u8 reserved[3];
};

struct ct {
	__u32 seen;    /* jiffies, low 32 bits, of the last packet (to a second) */
	__u32 stamp;   /* generation of the pod's direction + control.epoch when policy last allowed it */
	__u32 counter; /* counters index that takes its packets */
	__u32 slot;
	__u8 direction; /* of who began: as the pod sees it */
	__u8 state;     /* enum ct_state, index into timeouts */
	__u8 flags;     /* enum ct_flags */
	__u8 reserved;
};

enum ct_state {
	/* A state that the first answer promotes is followed by the one it becomes. */
	CT_TCP_SYN = 0,
	CT_TCP_ESTABLISHED = 1,
	CT_DATAGRAM_NEW = 2,
	CT_DATAGRAM_ANSWERED = 3,
	CT_TCP_CLOSING = 4,
	CT_SCTP = 5,
	CT_ECHO = 6,
	CT_STATES = 8,
};

enum ct_flags {
	CT_NODE = 1, /* begun by the node itself: policy is not asked */
	CT_SELF = 2, /* the pod's way to itself */
};

/* frag: what the first fragment of a datagram said, for those that follow. */
struct frag_key {
	__u32 ifindex;
	__u32 id_be;
	__u32 source_be[4];
	__u32 destination_be[4];
	__u8 protocol; /* of the IPv4 header; 44 for IPv6 */
	__u8 direction;
	__u8 reserved[2];
};

struct frag {
	__u32 seen; /* jiffies */
	__u16 local_port_be;
	__u16 remote_port_be;
	__u16 first_end; /* bytes of the fragmentable part that no later fragment may touch */
	__u8 protocol;   /* IPv6: of the payload */
	__u8 icmp_type;
};

enum outcome {
	OUTCOME_DROPPED = 0,
	OUTCOME_ALLOWED = 1,
	OUTCOME_AUDITED = 2, /* passed, only because the policies that would deny it are in audit */
};

/* events: one record a first packet denied or audited (rate-limited) or allowed (control.log_allowed). */
struct event {
	__u64 time; /* CLOCK_BOOTTIME is not there on 5.10: CLOCK_MONOTONIC, ns */
	__u32 ifindex;
	__u32 slot;
	__u32 source_be[4]; /* IPv4: the first word */
	__u32 destination_be[4];
	__u16 source_port_be;
	__u16 destination_port_be;
	__u16 ethertype_be;
	__u8 protocol;
	__u8 direction;
	__u8 outcome; /* enum outcome */
	__u8 reason;  /* of an audited one: why it would be dropped */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u32 counter; /* counters index of the rule or isolation that decided; below COUNTER_FIRST: none */
	__u32 length;  /* bytes of the frame */
	__u32 reserved;
};

/*
 * note: what no program reads and the agent must find again after a restart: which pod a slot is, which table an l4 node
 * begins, what a rule is called. Text in chunks; length and sum are of the whole text, in each of its chunks.
 */
struct note_key {
	__u64 key; /* slot, l4 node id, or rule hash */
	__u32 kind; /* enum note_kind */
	__u32 chunk;
};

enum note_kind {
	NOTE_POD = 1,
	NOTE_TABLE = 2,
	NOTE_RULE = 3,
	NOTE_PROGRAMS = 4, /* key 0: what the pinned programs were built and loaded from */
};

#define NOTE_TEXT 120

struct note {
	__u32 length; /* bytes */
	__u32 sum;
	__u8 text[NOTE_TEXT];
};

/* event_budget, per CPU: events that may still be sent within this second, and how many were not. */
struct event_budget {
	__u32 second; /* jiffies at which it began */
	__u32 sent;
	__u64 lost;
};

#endif
