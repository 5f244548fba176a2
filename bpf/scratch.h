/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What is known of the packet at hand, and of the pod that it is judged for. */
#ifndef PALISADE_SCRATCH_H
#define PALISADE_SCRATCH_H

#include "config.h"
#include "maps.h"

enum kind {
	KIND_UNREAD = 0,    /* no addresses: not IP, or cut short before them */
	KIND_FLOW = 1,      /* has a key in conntrack */
	KIND_STATELESS = 2, /* ICMP that is neither echo nor error: judged packet by packet */
	KIND_NEIGHBOUR = 3, /* neighbour discovery, router solicitation, MLD */
	KIND_ARP = 4,
	KIND_ICMP_ERROR = 5,
	KIND_ROUTER = 6,    /* router advertisement, redirect */
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2,
};

/* Ports 0 where there are none. The protocol is the real one, behind extension headers. */
union flow_key {
	struct ct4_key v4;
	struct ct6_key v6;
};

/* All that an established flow needs of a TCP or UDP packet. On the stack; only the key's own family is ever written. */
struct plain {
	union flow_key key;
	__u8 protocol;
	__u8 tcp_flags;
};

struct packet {
	union flow_key key;
	__u32 ifindex;
	__u32 length;    /* bytes of the frame */
	__u32 id_be;     /* of the datagram, for fragments */
	__u16 l4;        /* offset in the frame */
	__u16 l4_length; /* bytes from l4 on, as the IP header says; 65535: more */
	__u16 first_end; /* of a first fragment: see struct frag */
	__u16 fragment_offset; /* bytes */
	__u16 ethertype_be;
	__u8 family; /* 4, 6, or 0 while no addresses are read */
	__u8 protocol;
	__u8 direction;
	__u8 kind;
	__u8 reason; /* why it cannot be judged as a flow; 0: it can */
	__u8 always; /* the reason holds in an open direction too */
	__u8 fragment;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 fragment_protocol; /* next header where fragments are keyed: see struct frag_key */
	__u8 tagged;
	__u8 unknown; /* conntrack was asked already, and has no such flow */
	__u8 reserved[3];
};

/* What a verdict is made with: the pod behind the interface, at one moment. */
struct scene {
	__u64 word[2]; /* pod->direction, read once: psid and generation belong together */
	__u32 verdict[2]; /* see asked(). Set by ask(). */
	__u32 audited_by[2]; /* of the pod; read after word */
	__u32 epoch;   /* read before any address */
	__u32 which;   /* set of ASK(): the directions in which policy is to be asked */
	__u32 slot;
	__u32 now;
	__u8 exempt; /* enum ct_flags: who sends is not asked for a policy */
	__u8 own;    /* the local address is the pod's */
	/* The verdict. */
	__u8 dropped;
	__u8 first;  /* passed, and a flow began */
	__u8 audited; /* passed only because policy is in audit, and not known to be so before */
	__u8 reason; /* why it is dropped, or would be; REASON_NONE: policy says so */
	__u8 log_allowed; /* the pod's first packets allowed are reported too */
	__u8 reserved;
	__u32 counter; /* counters index that takes the packet */
};

/*
 * The packet at hand where it is not plainly one of an allowed flow. In a map rather than on the stack because the
 * verifier follows each value that the stack holds: what was read on one path would be verified apart from every other.
 * Global functions, which are verified once and not at each call, find it for themselves: on 5.10 they take only scalars.
 */
struct scratch {
	struct packet packet[2]; /* [QUOTED]: what an ICMP error quotes */
	struct scene scene;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

#define QUOTED 1

static __always_inline struct scratch *scratch_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

#endif
