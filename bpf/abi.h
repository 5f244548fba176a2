/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the kernel side and the agent share. Rust takes these types from the object's BTF. Fixed-width integers
 * and arrays only, no implicit padding; a field that ends in _be is in network byte order.
 */
#ifndef PALISADE_ABI_H
#define PALISADE_ABI_H

#include <linux/types.h>

/* Raised when a map or a meaning below changes: pins of another version are not adopted. */
#define ABI_VERSION 1

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

/* pod_if: ifindex of a host-side veth -> whose it is. */
struct pod_if {
	__u32 slot;
	__u32 flags;
};

/* pod_state: slot -> the pod. mmapable: a direction flips with one aligned 8-byte store. */
struct pod_state {
	__u64 direction[2];  /* psid << 32 | generation */
	__u32 denied_by[2];  /* rule_counters index that takes what policy denies; 0: none */
	__u32 ifindex;       /* 0: slot is free */
	__u32 flags;         /* enum pod_flags */
	__u32 addr6_be[4];   /* first own IPv6 address, zero if none */
	__u32 addr4_be;      /* first own IPv4 address, zero if none */
	__u32 reserved[3];
};

enum pod_flags {
	POD_SOURCES4 = 1, /* source4 has further prefixes of this slot */
	POD_SOURCES6 = 2,
};

/* control: one entry, mmapable. */
struct control {
	__u32 abi_version;
	__u32 epoch;      /* raised when an address leaves or changes class: flows are judged anew */
	__u32 networks4;  /* prefixes in net4; 0 skips the lookup */
	__u32 networks6;
	__u32 log_allowed; /* 1: first packets allowed are reported on the ring too */
	__u32 reserved[11];
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
	__u32 rule; /* rule_counters index, for L4_ALLOW */
};

enum l4_root {
	L4_DENY = 0,
	L4_ALLOW = 1,
	L4_FIRST = 2, /* smallest node id */
};

#define L4_FANOUT 32
#define L4_LEVELS 4 /* 32^4 intervals: more than protocol << 16 | port can have that matter */

/*
 * l4: node of a B-tree over protocol << 16 | port. Entry i holds from first[i] up to first[i + 1]; first[0] of the
 * leftmost path is 0. Leaf (level 0): target 0 denies, another allows and is the rule_counters index. Inner: child id.
 */
struct l4_node {
	__u32 level;
	__u32 count;
	__u32 first[L4_FANOUT];
	__u32 target[L4_FANOUT];
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

#endif
