/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What policy says of a flow, and whose an address is. */
#ifndef PALISADE_POLICY_H
#define PALISADE_POLICY_H

#include "packet.h"

static __always_inline __u32 class_of(const struct packet *p)
{
	__u32 zero = 0, *class_id;
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	if (!c)
		return 0;
	if (p->family == 4) {
		struct net4_key net = { .prefix = 32, .addr_be = p->key.v4.remote_be };

		class_id = bpf_map_lookup_elem(&ip4, &net.addr_be);
		if (!class_id && c->networks4)
			class_id = bpf_map_lookup_elem(&net4, &net);
	} else {
		struct net6_key net = { .prefix = 128 };

		__builtin_memcpy(net.addr_be, p->key.v6.remote_be, 16);
		class_id = bpf_map_lookup_elem(&ip6, net.addr_be);
		if (!class_id && c->networks6)
			class_id = bpf_map_lookup_elem(&net6, &net);
	}
	return class_id ? *class_id : 0;
}

/* An index that 5.10 sees to be one: the compiler knows already, and would leave the mask away. */
static __always_inline __u64 l4_index(__u64 at)
{
	asm volatile("" : "+r"(at));
	return at & (L4_FANOUT - 1);
}

/*
 * The interval that holds `value`, by binary search without branches, so that the verifier walks it once a level.
 * Entries from `count` on hold 0xffffffff in first[].
 */
static __always_inline __u32 l4_search(__u32 id, __u32 value)
{
	int level, step;

	for (level = 0; level < L4_LEVELS; level++) {
		struct l4_node *node = bpf_map_lookup_elem(&l4, &id);
		__u64 at = 0;

		if (!node)
			return 0;
#pragma unroll
		for (step = L4_FANOUT / 2; step; step >>= 1) {
			/* All ones where first <= value. */
			__s64 not_above = ((__s64)node->first[l4_index(at + step)] - (__s64)value - 1) >> 63;

			at += step & not_above;
		}
		id = node->target[l4_index(at)];
		if (node->level == 0)
			return id;
	}
	return 0;
}

/* Counters index of the rule that lets a flow begin in `direction` under `psid`, which bears no mark of an audit; 0: denied. */
static __always_inline __u32 policy(const struct packet *p, __u32 psid, __u8 direction)
{
	struct row_key key = { .psid = psid };
	struct row *r;
	__u32 value;

	if (psid == PSID_OPEN)
		return COUNTER(REASON_OPEN, direction);
	if (psid < PSID_FIRST)
		return 0;
	key.class_id = class_of(p);
	if (!key.class_id)
		return 0;
	r = bpf_map_lookup_elem(&row, &key);
	if (!r || r->l4 == L4_DENY)
		return 0;
	if (r->l4 == L4_ALLOW)
		return r->rule;
	value = (__u32)p->protocol << 16;
	if (p->protocol != IPPROTO_ICMP && p->protocol != IPPROTO_ICMPV6)
		value |= bpf_ntohs(direction == EGRESS ? remote_port_be(p) : local_port_be(p));
	return l4_search(r->l4, value);
}

static __always_inline int same6(const __u32 *a, const __u32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

static __always_inline int zero6(const __u32 *a)
{
	return !(a[0] | a[1] | a[2] | a[3]);
}

static __always_inline int link_local6(const __u32 *a)
{
	return (a[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int owns4(const struct pod_state *pod, __u32 slot, __u32 addr_be)
{
	struct source4_key key = { .prefix = 64, .slot = slot, .addr_be = addr_be };

	if (addr_be && addr_be == pod->addr4_be)
		return 1;
	return pod->flags & POD_SOURCES4 && bpf_map_lookup_elem(&source4, &key);
}

static __always_inline int owns6(const struct pod_state *pod, __u32 slot, const __u32 *addr_be)
{
	struct source6_key key = { .prefix = 160, .slot = slot };

	if (same6(addr_be, pod->addr6_be) && !zero6(addr_be))
		return 1;
	if (!(pod->flags & POD_SOURCES6))
		return 0;
	__builtin_memcpy(key.addr_be, addr_be, 16);
	return !!bpf_map_lookup_elem(&source6, &key);
}

/* Whether the local address of an IP packet is the pod's own. */
static __always_inline int owns_local(const struct packet *p, const struct pod_state *pod, __u32 slot)
{
	if (p->family == 4)
		return owns4(pod, slot, p->key.v4.local_be);
	return owns6(pod, slot, p->key.v6.local_be);
}

/*
 * What an address that is nobody's may send: neighbour discovery and MLD from an unspecified or link-local address,
 * and DHCP.
 */
static __always_inline int may_send_unowned(const struct packet *p)
{
	if (p->family == 4) {
		__u32 source = p->key.v4.local_be;

		return (!source || (source & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000)) &&
		       p->kind == KIND_FLOW && p->protocol == IPPROTO_UDP && !p->fragment &&
		       p->key.v4.local_port_be == bpf_htons(68) && p->key.v4.remote_port_be == bpf_htons(67);
	}
	if (!zero6(p->key.v6.local_be) && !link_local6(p->key.v6.local_be))
		return 0;
	return p->kind == KIND_NEIGHBOUR ||
	       (p->kind == KIND_FLOW && p->protocol == IPPROTO_UDP && !p->fragment &&
		p->key.v6.local_port_be == bpf_htons(546) && p->key.v6.remote_port_be == bpf_htons(547));
}

/* A neighbour advertisement names the address that it answers for. */
static __always_inline int advertises_own(struct __sk_buff *skb, const struct packet *p, const struct pod_state *pod,
					  __u32 slot)
{
	__u32 target[4];

	if (p->icmp_type != ICMP6_NEIGHBOUR_ADVERTISEMENT)
		return 1;
	if (bpf_skb_load_bytes(skb, p->l4 + 8, target, sizeof(target)))
		return 0;
	return link_local6(target) || owns6(pod, slot, target);
}

struct arp {
	__u16 hardware_be;
	__u16 protocol_be;
	__u8 hardware_length;
	__u8 protocol_length;
	__u16 operation_be;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

/* ARP for IPv4 over Ethernet, whose sender is the pod or, in a probe, nobody yet (RFC 5227). */
static __always_inline int arp_is_own(struct __sk_buff *skb, const struct packet *p, const struct pod_state *pod,
				      __u32 slot)
{
	struct arp arp;
	__u32 sender;

	if (bpf_skb_load_bytes(skb, p->l4, &arp, sizeof(arp)))
		return 0;
	if (arp.hardware_be != bpf_htons(1) || arp.protocol_be != bpf_htons(ETH_P_IP) || arp.hardware_length != 6 ||
	    arp.protocol_length != 4)
		return 0;
	__builtin_memcpy(&sender, arp.sender, 4);
	return !sender || owns4(pod, slot, sender);
}

#endif
