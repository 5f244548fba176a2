/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * From bytes to a struct packet: the flow key as the pod sees it, what kind of packet it is, and what is wrong with it.
 * quick() reads the plain TCP or UDP packet in place; parse() reads everything else, by copying.
 */
#ifndef PALISADE_PACKET_H
#define PALISADE_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "scratch.h"

#define IP_DONT_FRAGMENT 0x4000
#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET 0x1fff
#define EXTENSION_HEADERS 8
#define NO_FRAGMENT_HEADER 1 /* fragment offsets are multiples of 8 */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ICMP4_UNREACHABLE 3
#define ICMP4_REDIRECT 5
#define ICMP4_ECHO_REQUEST 8
#define ICMP4_ECHO_REPLY 0
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER_PROBLEM 12
#define ICMP6_LAST_ERROR 4 /* 1 unreachable, 2 too big, 3 time exceeded, 4 parameter problem */
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_MLD_QUERY 130
#define ICMP6_MLD_DONE 132
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_ROUTER_ADVERTISEMENT 134
#define ICMP6_NEIGHBOUR_SOLICITATION 135
#define ICMP6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMP6_REDIRECT 137
#define ICMP6_MLD2_REPORT 143

static __always_inline __u16 local_port_be(const struct packet *p)
{
	return p->family == 4 ? p->key.v4.local_port_be : p->key.v6.local_port_be;
}

static __always_inline __u16 remote_port_be(const struct packet *p)
{
	return p->family == 4 ? p->key.v4.remote_port_be : p->key.v6.remote_port_be;
}

static __always_inline void set_ports(struct packet *p, __u16 source_be, __u16 destination_be)
{
	__u16 local = p->direction == EGRESS ? source_be : destination_be;
	__u16 remote = p->direction == EGRESS ? destination_be : source_be;

	if (p->family == 4) {
		p->key.v4.local_port_be = local;
		p->key.v4.remote_port_be = remote;
	} else {
		p->key.v6.local_port_be = local;
		p->key.v6.remote_port_be = remote;
	}
}

static __always_inline void set_protocol(struct packet *p, __u8 protocol)
{
	p->protocol = protocol;
	if (p->family == 4)
		p->key.v4.protocol = protocol;
	else
		p->key.v6.protocol = protocol;
}

static __always_inline void set_addresses4(struct packet *p, __u32 source_be, __u32 destination_be)
{
	p->key.v4.ifindex = p->ifindex;
	p->key.v4.local_be = p->direction == EGRESS ? source_be : destination_be;
	p->key.v4.remote_be = p->direction == EGRESS ? destination_be : source_be;
	p->family = 4;
}

static __always_inline void set_addresses6(struct packet *p, const __u32 *source_be, const __u32 *destination_be)
{
	const __u32 *local = p->direction == EGRESS ? source_be : destination_be;
	const __u32 *remote = p->direction == EGRESS ? destination_be : source_be;

	p->key.v6.ifindex = p->ifindex;
	__builtin_memcpy(p->key.v6.local_be, local, 16);
	__builtin_memcpy(p->key.v6.remote_be, remote, 16);
	p->family = 6;
}

/*
 * The common case, read in place: TCP or UDP right behind a plain IPv4 or IPv6 header, whole, untagged. Fills the key and says
 * the address family; 0: it is not that, and nothing is read that parse() would miss.
 */
static __always_inline __u8 quick(struct __sk_buff *skb, struct plain *q, const __u8 direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u16 ethertype_be, length;
	__u8 *l4;

	if (skb->vlan_present || data + ETH_HLEN + sizeof(struct iphdr) + 8 > end)
		return 0;
	ethertype_be = *(__u16 *)(data + ETH_HLEN - 2);
	if (ethertype_be == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_OFFSET))
			return 0;
		length = bpf_ntohs(ip->tot_len);
		if (ETH_HLEN + length > skb->len)
			return 0;
		l4 = (void *)(ip + 1);
		q->protocol = ip->protocol;
		q->tcp_flags = 0;
		if (q->protocol == IPPROTO_TCP) {
			if (length < 40 || l4 + 20 > (__u8 *)end)
				return 0;
			q->tcp_flags = l4[13];
		} else if (q->protocol != IPPROTO_UDP || length < 28) {
			return 0;
		}
		q->key.v4 = (struct ct4_key){
			.ifindex = skb->ifindex,
			.local_be = direction == EGRESS ? ip->saddr : ip->daddr,
			.remote_be = direction == EGRESS ? ip->daddr : ip->saddr,
			.local_port_be = *(__u16 *)(direction == EGRESS ? l4 : l4 + 2),
			.remote_port_be = *(__u16 *)(direction == EGRESS ? l4 + 2 : l4),
			.protocol = q->protocol,
		};
		return 4;
	}
	if (ethertype_be == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		l4 = (void *)(ip + 1);
		if (l4 + 8 > (__u8 *)end || (*(__u8 *)ip & 0xf0) != 0x60)
			return 0;
		length = bpf_ntohs(ip->payload_len);
		if (ETH_HLEN + sizeof(*ip) + length > skb->len)
			return 0;
		q->protocol = ip->nexthdr;
		q->tcp_flags = 0;
		if (q->protocol == IPPROTO_TCP) {
			if (length < 20 || l4 + 20 > (__u8 *)end)
				return 0;
			q->tcp_flags = l4[13];
		} else if (q->protocol != IPPROTO_UDP || length < 8) {
			return 0;
		}
		q->key.v6 = (struct ct6_key){
			.ifindex = skb->ifindex,
			.local_port_be = *(__u16 *)(direction == EGRESS ? l4 : l4 + 2),
			.remote_port_be = *(__u16 *)(direction == EGRESS ? l4 + 2 : l4),
			.protocol = q->protocol,
		};
		__builtin_memcpy(q->key.v6.local_be, direction == EGRESS ? &ip->saddr : &ip->daddr, 16);
		__builtin_memcpy(q->key.v6.remote_be, direction == EGRESS ? &ip->daddr : &ip->saddr, 16);
		return 6;
	}
	return 0;
}

/* What quick() read, as parse() would have given it. */
static __always_inline void copy_plain(struct __sk_buff *skb, struct packet *p, const struct plain *q, __u8 family,
				       __u8 direction)
{
	__builtin_memset(p, 0, sizeof(*p));
	if (family == 4) {
		p->key.v4 = q->key.v4;
		p->ethertype_be = bpf_htons(ETH_P_IP);
	} else {
		p->key.v6 = q->key.v6;
		p->ethertype_be = bpf_htons(ETH_P_IPV6);
	}
	p->ifindex = skb->ifindex;
	p->length = skb->len;
	p->family = family;
	p->protocol = q->protocol;
	p->direction = direction;
	p->kind = KIND_FLOW;
	p->tcp_flags = q->tcp_flags;
}

static __always_inline void unreadable(struct packet *p, __u8 reason)
{
	p->reason = reason;
}

static __always_inline void fragment_key(const struct packet *p, struct frag_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->ifindex = p->ifindex;
	key->id_be = p->id_be;
	key->protocol = p->fragment_protocol;
	key->direction = p->direction;
	/* Which end is source does not matter: the direction is part of the key. */
	if (p->family == 4) {
		key->source_be[0] = p->key.v4.local_be;
		key->destination_be[0] = p->key.v4.remote_be;
	} else {
		__builtin_memcpy(key->source_be, p->key.v6.local_be, 16);
		__builtin_memcpy(key->destination_be, p->key.v6.remote_be, 16);
	}
}

/* Reads the ICMP header's type (and of echo the identifier), or what the first fragment's was. */
static __always_inline void classify_icmp(struct packet *p, __u8 type, __u16 id_be)
{
	__u8 asks, answers, error, router;

	p->icmp_type = type;
	p->kind = KIND_STATELESS;
	if (p->protocol == IPPROTO_ICMP) {
		asks = type == ICMP4_ECHO_REQUEST;
		answers = type == ICMP4_ECHO_REPLY;
		error = type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
		router = type == ICMP4_REDIRECT;
	} else {
		asks = type == ICMP6_ECHO_REQUEST;
		answers = type == ICMP6_ECHO_REPLY;
		error = type >= 1 && type <= ICMP6_LAST_ERROR;
		router = type == ICMP6_ROUTER_ADVERTISEMENT || type == ICMP6_REDIRECT;
		if ((type >= ICMP6_MLD_QUERY && type <= ICMP6_MLD_DONE) || type == ICMP6_MLD2_REPORT) {
			/* Hop limits are as their RFCs (3810, 4861) fix them: what a router could forward is no MLD. */
			if (p->hop_limit == 1)
				p->kind = KIND_NEIGHBOUR;
		} else if (type == ICMP6_ROUTER_SOLICITATION || type == ICMP6_NEIGHBOUR_SOLICITATION ||
			   type == ICMP6_NEIGHBOUR_ADVERTISEMENT) {
			if (p->hop_limit == 255)
				p->kind = KIND_NEIGHBOUR;
		}
	}
	if (error)
		p->kind = KIND_ICMP_ERROR;
	if (router)
		p->kind = KIND_ROUTER;
	if (asks || answers) {
		p->kind = KIND_FLOW;
		set_ports(p, asks ? id_be : 0, asks ? 0 : id_be);
	}
}

/* Ports, flags and types of the transport header at p->l4. `quoted`: only the first 8 bytes need to be there. */
static __always_inline void parse_l4(struct __sk_buff *skb, struct packet *p, int quoted)
{
	__u8 h[14] = {};
	__u16 *ports = (__u16 *)h;
	__u32 want = 4;

	p->kind = KIND_FLOW;
	switch (p->protocol) {
	case IPPROTO_TCP:
		want = quoted ? 8 : 20;
		break;
	case IPPROTO_UDP:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		want = 8;
		break;
	case IPPROTO_SCTP:
		want = quoted ? 8 : 12;
		break;
	default:
		return;
	}
	if ((p->protocol == IPPROTO_ICMP && p->family != 4) || (p->protocol == IPPROTO_ICMPV6 && p->family != 6))
		return;
	if (p->fragment == FRAGMENT_FIRST && p->protocol == IPPROTO_TCP && p->l4_length < 16) {
		/* RFC 1858: a first fragment that leaves the flags to the next one. */
		p->reason = REASON_OVERLAP;
		p->always = 1;
		return;
	}
	if (p->l4_length < want && !(p->fragment == FRAGMENT_FIRST && p->l4_length >= 8))
		return unreadable(p, REASON_MALFORMED);
	if (bpf_skb_load_bytes(skb, p->l4, h, 8))
		return unreadable(p, REASON_MALFORMED);
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		return classify_icmp(p, h[0], ports[2]);
	if (p->protocol == IPPROTO_TCP && !quoted) {
		if (bpf_skb_load_bytes(skb, p->l4 + 8, h + 8, 6))
			return unreadable(p, REASON_MALFORMED);
		p->tcp_flags = h[13];
	}
	set_ports(p, ports[0], ports[1]);
	p->first_end += p->protocol == IPPROTO_TCP ? 16 : 8;
}

/* A fragment that is not the first: what the first one said. */
static __always_inline void parse_later_fragment(struct packet *p)
{
	struct frag_key key;
	struct frag *first;

	p->kind = KIND_FLOW;
	if (p->family == 4 && p->protocol == IPPROTO_TCP && p->fragment_offset < 16) {
		/* RFC 3128: it would be put over the flags of the first. */
		p->reason = REASON_OVERLAP;
		p->always = 1;
		return;
	}
	fragment_key(p, &key);
	first = bpf_map_lookup_elem(&frag, &key);
	if (!first || older_than(first->seen, now_jiffies(), frag_timeout))
		return unreadable(p, REASON_FRAGMENT);
	if (p->fragment_offset < first->first_end) {
		p->reason = REASON_OVERLAP;
		p->always = 1;
		return;
	}
	set_protocol(p, first->protocol);
	p->tcp_flags = TCP_ACK;
	p->icmp_type = first->icmp_type;
	if (p->family == 4) {
		p->key.v4.local_port_be = first->local_port_be;
		p->key.v4.remote_port_be = first->remote_port_be;
	} else {
		p->key.v6.local_port_be = first->local_port_be;
		p->key.v6.remote_port_be = first->remote_port_be;
	}
	if ((p->protocol == IPPROTO_ICMP && p->family == 4) || (p->protocol == IPPROTO_ICMPV6 && p->family == 6)) {
		/* Ports of an echo are set; only one that asks or answers is a flow, and an error is not split. */
		__u8 type = first->icmp_type;
		__u8 echo = p->protocol == IPPROTO_ICMP ? type == ICMP4_ECHO_REQUEST || type == ICMP4_ECHO_REPLY :
							   type == ICMP6_ECHO_REQUEST || type == ICMP6_ECHO_REPLY;

		p->kind = echo ? KIND_FLOW : KIND_STATELESS;
	}
}

static __always_inline void parse_ip4(struct __sk_buff *skb, struct packet *p, int quoted)
{
	__u32 offset = p->l4, header, total;
	struct iphdr ip;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return unreadable(p, REASON_MALFORMED);
	header = (*(__u8 *)&ip & 0x0f) * 4;
	total = bpf_ntohs(ip.tot_len);
	set_addresses4(p, ip.saddr, ip.daddr);
	set_protocol(p, ip.protocol);
	p->fragment_protocol = ip.protocol;
	p->hop_limit = ip.ttl;
	if (total == 0 && skb->len > 65535) /* a segmentation offload of more than 64 KiB has no length */
		total = 65535;
	if ((*(__u8 *)&ip & 0xf0) != 0x40 || header < sizeof(ip) || total < header ||
	    (!quoted && total != 65535 && offset + total > skb->len))
		return unreadable(p, REASON_MALFORMED);
	p->l4 = offset + header;
	p->l4_length = total - header;
	fragment = bpf_ntohs(ip.frag_off);
	p->fragment_offset = (fragment & IP_OFFSET) << 3;
	p->id_be = ip.id;
	if (p->fragment_offset)
		p->fragment = FRAGMENT_LATER;
	else if (fragment & IP_MORE_FRAGMENTS)
		p->fragment = FRAGMENT_FIRST;
}

struct fragment_header {
	__u8 next;
	__u8 length; /* of headers other than the fragment header */
	__u16 offset_be;
	__u32 id_be;
};

enum step {
	STEP_ON = 0,
	STEP_DONE = 1, /* the transport header is reached, a fragment that is not the first, or a reason */
};

/*
 * One extension header of packet[quoted], at l4, of those that end at `end`; `read` of them have been read. A function of its
 * own, which the verifier walks once and not for each place in each chain.
 */
__noinline int step_ip6(struct __sk_buff *skb, __u32 end, __u32 read, __u32 quoted)
{
	struct scratch *scratch = scratch_of_cpu();
	struct fragment_header h;
	__u32 at, length;
	struct packet *p;
	__u8 next;

	if (!scratch)
		return STEP_DONE;
	p = &scratch->packet[quoted & QUOTED];
	at = p->l4;
	next = p->protocol;
	if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_AH &&
	    next != IPPROTO_FRAGMENT) {
		p->l4_length = end < at ? 0 : end - at > 65535 ? 65535 : end - at;
		if (p->first_end)
			p->first_end = at - p->first_end;
		set_protocol(p, next);
		return STEP_DONE;
	}
	if (read == EXTENSION_HEADERS)
		goto refused;
	if (at + 8 > end || bpf_skb_load_bytes(skb, at, &h, sizeof(h)))
		goto malformed;
	if (next == IPPROTO_FRAGMENT) {
		__u16 fragment = bpf_ntohs(h.offset_be);

		if (p->fragment_offset != NO_FRAGMENT_HEADER) /* a second one */
			goto refused;
		p->id_be = h.id_be;
		p->fragment_offset = fragment & 0xfff8;
		p->protocol = h.next;
		at += 8;
		if (fragment & 0xfff8) {
			p->fragment = FRAGMENT_LATER;
			set_protocol(p, h.next);
			return STEP_DONE;
		}
		if (fragment & 1) {
			p->fragment = FRAGMENT_FIRST;
			p->first_end = at;
		}
	} else {
		/* A routing header with segments left: bound for elsewhere than its destination address. */
		if (next == IPPROTO_ROUTING && (bpf_ntohs(h.offset_be) & 0xff))
			goto refused;
		p->protocol = h.next;
		length = h.length;
		at += next == IPPROTO_AH ? (length + 2) << 2 : (length + 1) << 3;
	}
	if (at > 65535)
		goto malformed;
	p->l4 = at;
	return STEP_ON;
malformed:
	unreadable(p, REASON_MALFORMED);
	return STEP_DONE;
refused:
	unreadable(p, REASON_EXTENSION);
	return STEP_DONE;
}

/* The chain of extension headers, up to `end`. Unrolled: not every loop is laid out as 5.10 takes it. */
static __always_inline void walk_ip6(struct __sk_buff *skb, __u32 end, __u32 quoted)
{
	__u32 read;

#pragma unroll
	for (read = 0; read <= EXTENSION_HEADERS; read++)
		if (step_ip6(skb, end, read, quoted) == STEP_DONE)
			return;
}

static __always_inline void parse_ip6(struct __sk_buff *skb, struct packet *p, int quoted)
{
	__u32 offset = p->l4, end;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return unreadable(p, REASON_MALFORMED);
	set_addresses6(p, ip.saddr.in6_u.u6_addr32, ip.daddr.in6_u.u6_addr32);
	set_protocol(p, ip.nexthdr);
	p->hop_limit = ip.hop_limit;
	p->fragment_protocol = IPPROTO_FRAGMENT;
	p->l4 = offset + sizeof(ip);
	p->fragment_offset = NO_FRAGMENT_HEADER;
	end = offset + sizeof(ip) + bpf_ntohs(ip.payload_len);
	if (ip.payload_len == 0 && skb->len > 65535 && ip.nexthdr != IPPROTO_NONE)
		end = skb->len;
	if ((*(__u8 *)&ip & 0xf0) != 0x60 || (!quoted && end > skb->len))
		return unreadable(p, REASON_MALFORMED);
	walk_ip6(skb, end, quoted);
}

/* The IP packet at l4 of packet[quoted]. QUOTED: the beginning of one, inside an ICMP error. */
__noinline int parse_ip(struct __sk_buff *skb, __u32 ipv6, __u32 quoted)
{
	struct scratch *scratch = scratch_of_cpu();
	struct packet *p;

	if (!scratch)
		return 0;
	p = &scratch->packet[quoted & QUOTED];
	if (ipv6)
		parse_ip6(skb, p, quoted);
	else
		parse_ip4(skb, p, quoted);
	if (p->reason)
		return 0;
	if (p->fragment == FRAGMENT_LATER)
		parse_later_fragment(p);
	else
		parse_l4(skb, p, quoted);
	return 0;
}

/* Any frame. What cannot be judged has a reason; the addresses are there unless kind is KIND_UNREAD. */
static __noinline int parse(struct __sk_buff *skb, struct packet *p, __u8 direction)
{
	volatile struct packet *cursor = p; /* in memory, or the verifier would follow each value */
	__u16 tag[2];
	int i;

	__builtin_memset(p, 0, sizeof(*p));
	p->direction = direction;
	p->ifindex = skb->ifindex;
	p->length = skb->len;
	cursor->l4 = ETH_HLEN;
	cursor->tagged = skb->vlan_present != 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN - 2, &p->ethertype_be, 2)) {
		p->reason = REASON_MALFORMED;
		return 0;
	}
	/* Tags of VLAN 0 are taken off by the stack and what is inside is read as if untagged: so do we, to know whose it is. */
	for (i = 0; i < 2; i++) {
		if (p->ethertype_be != bpf_htons(ETH_P_8021Q) && p->ethertype_be != bpf_htons(ETH_P_8021AD))
			break;
		cursor->tagged = 1;
		if (bpf_skb_load_bytes(skb, cursor->l4, tag, 4)) {
			p->reason = REASON_MALFORMED;
			return 0;
		}
		p->ethertype_be = tag[1];
		cursor->l4 += 4;
	}
	if (p->ethertype_be == bpf_htons(ETH_P_IP) || p->ethertype_be == bpf_htons(ETH_P_IPV6)) {
		parse_ip(skb, p->ethertype_be == bpf_htons(ETH_P_IPV6), 0);
	} else if (p->ethertype_be == bpf_htons(ETH_P_ARP)) {
		p->kind = KIND_ARP;
	} else if (p->ethertype_be == bpf_htons(ETH_P_8021Q) || p->ethertype_be == bpf_htons(ETH_P_8021AD)) {
		/* Deeper tags: whose it is cannot be told, so not even an open pod sends it. */
		p->always = direction == EGRESS;
	} else {
		p->reason = REASON_ETHERTYPE;
	}
	if (cursor->tagged && !(p->always && p->reason))
		p->reason = REASON_VLAN;
	return 0;
}

#endif
