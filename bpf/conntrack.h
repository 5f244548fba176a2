/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Flows that policy has allowed, and what the first fragments of datagrams said. */
#ifndef PALISADE_CONNTRACK_H
#define PALISADE_CONNTRACK_H

#include "events.h"

static __always_inline __u32 psid_of(__u64 word)
{
	return word >> 32;
}

static __always_inline __u32 stamp_of(__u64 word, __u32 epoch)
{
	/* Both only grow: the sum is the same only while neither changed. */
	return (__u32)word + epoch;
}

/*
 * The two lookups must stay two: were they merged into one by a pointer to either map, the kernel could not inline it, and would
 * call it by way of a retpoline. The compiler does not merge what differs, and these are followed by assembly (of nothing) that does.
 */
static __always_inline struct ct *ct_lookup(const union flow_key *key, __u8 family)
{
	struct ct *ct;

	if (family == 4) {
		ct = bpf_map_lookup_elem(&ct4, &key->v4);
		asm volatile("" : "+r"(ct) : "i"(4));
	} else {
		ct = bpf_map_lookup_elem(&ct6, &key->v6);
		asm volatile("" : "+r"(ct) : "i"(6));
	}
	return ct;
}

static __always_inline int ct_expired(const struct ct *ct, __u32 now)
{
	return older_than(ct->seen, now, timeouts[ct->state & (CT_STATES - 1)]);
}

/* What one more packet does to an allowed flow. */
static __always_inline void ct_touch(struct ct *ct, __u8 direction, __u8 protocol, __u8 tcp_flags, __u32 now)
{
	if (protocol == IPPROTO_TCP && tcp_flags & (TCP_FIN | TCP_RST))
		ct->state = CT_TCP_CLOSING;
	else if (direction != ct->direction && (ct->state == CT_TCP_SYN || ct->state == CT_DATAGRAM_NEW))
		ct->state++;
	if (now - ct->seen >= hz)
		ct->seen = now;
}

/* Whether the one who sends is still the one for whom policy is not asked. Only what comes to the pod can pretend. */
static __always_inline int ct_exempt(const struct ct *ct, const struct packet *p, __u8 exempt)
{
	return ct->flags && (p->direction == EGRESS || ct->flags & exempt);
}

static __always_inline __u8 ct_first_state(const struct packet *p)
{
	switch (p->protocol) {
	case IPPROTO_TCP:
		if (p->tcp_flags & (TCP_FIN | TCP_RST))
			return CT_TCP_CLOSING;
		return p->tcp_flags & TCP_SYN && !(p->tcp_flags & TCP_ACK) ? CT_TCP_SYN : CT_TCP_ESTABLISHED;
	case IPPROTO_SCTP:
		return CT_SCTP;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return CT_ECHO;
	default:
		return CT_DATAGRAM_NEW;
	}
}

/*
 * In place where there is one: another CPU sees a whole field of either, and both were allowed. What is new is counted: what
 * was recorded and is not there any more has been evicted, for nothing else removes a flow.
 */
static __always_inline void ct_store(const struct packet *p, struct ct *old, const struct ct *new)
{
	long error;

	if (old) {
		*old = *new;
		return;
	}
	if (p->family == 4) {
		error = bpf_map_update_elem(&ct4, &p->key.v4, new, BPF_ANY);
		asm volatile("" : "+r"(error) : "i"(4)); /* see ct_lookup() */
	} else {
		error = bpf_map_update_elem(&ct6, &p->key.v6, new, BPF_ANY);
		asm volatile("" : "+r"(error) : "i"(6));
	}
	count((error ? COUNTER_FLOWS_REFUSED : COUNTER_FLOWS_RECORDED) + (p->family != 4), 0);
}

/* Of an allowed first fragment, so that the later ones are judged by its ports. */
static __noinline int frag_store(const struct packet *p)
{
	struct frag_key key;
	struct frag value = {
		.seen = now_jiffies(),
		.local_port_be = local_port_be(p),
		.remote_port_be = remote_port_be(p),
		.first_end = p->first_end,
		.protocol = p->protocol,
		.icmp_type = p->icmp_type,
	};

	fragment_key(p, &key);
	bpf_map_update_elem(&frag, &key, &value, BPF_ANY);
	return 0;
}

#endif
