// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The two programs of a pod's host-side veth: from_pod on its ingress, to_pod on its egress.
 *
 * A packet of a flow that policy has allowed costs one conntrack lookup. Everything else goes to consider().
 */
#include "conntrack.h"

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
 * What policy says of a flow that begins in `direction`: the counters index of what lets it, with AUDITED where that is only an
 * audit; 0: denied.
 */
static __always_inline __u32 asked(const struct packet *p, const struct scene *s, __u8 direction)
{
	__u32 psid = psid_of(s->word[direction & 1]);
	__u32 counter = policy(p, unmarked(psid), direction);

	return counter || !(psid & AUDITED) ? counter : audited(s, direction);
}

#define ASK(direction) (1 << ((direction) & 1))

/* Asks policy of packet[quoted] in the directions of which; the answer in the others is: denied. */
__noinline int ask(__u32 quoted)
{
	struct scratch *scratch = scratch_of_cpu();
	const struct packet *p;
	struct scene *s;
	__u32 direction;

	if (!scratch)
		return 0;
	p = &scratch->packet[quoted & QUOTED];
	s = &scratch->scene;
	for (direction = INGRESS; direction <= EGRESS; direction++)
		s->verdict[direction] =
			s->which & ASK(direction) ? asked(p, s, direction) : 0;
	return 0;
}

/* Who began a connection that policy lets begin in the directions of s->verdict. */
static __always_inline __u8 began(const struct packet *p, const struct scene *s)
{
	if (s->verdict[INGRESS] && s->verdict[EGRESS]) /* the one with the higher port asked */
		return bpf_ntohs(local_port_be(p)) > bpf_ntohs(remote_port_be(p)) ? EGRESS : INGRESS;
	return s->verdict[EGRESS] ? EGRESS : INGRESS;
}

static __always_inline int syn_only(__u8 protocol, __u8 tcp_flags)
{
	return protocol == IPPROTO_TCP && (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u32 exempt_counter(__u8 exempt, __u8 direction)
{
	return COUNTER(exempt == CT_NODE ? REASON_NODE : REASON_SELF, direction & 1);
}

/* The directions in which policy must be asked of a packet, not a request, that belongs to `ct`, or to no known flow. */
static __always_inline __u32 questions(const struct packet *p, const struct scene *s, const struct ct *ct)
{
	if (!ct) {
		if (s->exempt)
			return 0;
		/* The middle of a connection: either end may have opened it. */
		if (p->protocol == IPPROTO_TCP)
			return ASK(INGRESS) | ASK(EGRESS);
		return ASK(p->direction);
	}
	if (ct_exempt(ct, p, s->exempt))
		return 0;
	/* Else forwarded traffic that happens to have the addresses and ports of what the node sent. */
	return ct->flags ? ASK(p->direction) : ASK(ct->direction);
}

/* A packet of a flow that is in conntrack, with a stamp that may be old. As asked(), but AUDITED only where that is news. */
static __always_inline __u32 known_flow(const struct packet *p, struct scene *s, struct ct *ct)
{
	__u8 direction = ct->direction & 1;
	__u32 counter = ct->counter, stamp = stamp_of(s->word[direction], s->epoch);

	if (!ct_exempt(ct, p, s->exempt)) {
		if (ct->flags)
			return s->verdict[p->direction & 1];
		counter = s->verdict[direction];
		if (!counter && s->exempt && direction == p->direction)
			counter = exempt_counter(s->exempt, direction);
		if (!counter)
			return 0;
		if (ct->stamp == stamp)
			counter = unmarked(counter);
	}
	ct->counter = unmarked(counter);
	ct->stamp = stamp;
	ct_touch(ct, p->direction, p->protocol, p->tcp_flags, s->now);
	return counter;
}

/* The flow that a packet belongs to, in `place` too; not one of an earlier pod on a reused interface index, nor forgotten. */
static __always_inline struct ct *live_flow(const struct packet *p, const struct scene *s, struct ct **place)
{
	struct ct *ct = s->own && !p->unknown ? ct_lookup(&p->key, p->family) : NULL;

	*place = ct;
	return ct && ct->slot == s->slot && !ct_expired(ct, s->now) ? ct : NULL;
}

/* Records a flow that policy lets begin, in the place of an old one if there is one. */
static __always_inline void begin_flow(const struct packet *p, const struct scene *s, struct ct *place, __u8 direction,
				      __u32 counter)
{
	struct ct new = {
		.seen = s->now,
		.stamp = stamp_of(s->word[direction & 1], s->epoch),
		.counter = unmarked(counter),
		.slot = s->slot,
		.direction = direction,
		.state = ct_first_state(p),
		.flags = s->exempt,
	};

	ct_store(p, place, &new);
}

/* Whether a packet asks for a flow: a connection request, or one that belongs to none and could not be in the middle of one. */
static __always_inline int asks(const struct packet *p)
{
	return syn_only(p->protocol, p->tcp_flags) || (p->unknown && p->protocol != IPPROTO_TCP);
}

/*
 * A connection request is judged as one, whatever was there. One against the grain of a flow that is still allowed does not make
 * the flow its own, or else the peer of a pod could decide by which policy it is judged.
 */
static __always_inline void request(const struct packet *p, struct scene *s, const struct pod_state *pod)
{
	__u8 direction = p->direction & 1;
	struct ct *ct, *place;
	__u32 counter;

	counter = s->exempt ? exempt_counter(s->exempt, direction) : asked(p, s, direction);
	if (!counter)
		return deny(p, s, pod, direction);
	ct = live_flow(p, s, &place);
	if (ct && ct->direction != direction && ct->state != CT_TCP_CLOSING) {
		if (ct->flags)
			return pass_first(s, counter);
		s->which = ASK(!direction);
		ask(0);
		if (s->verdict[!direction])
			return pass_first(s, counter);
	}
	if (s->own)
		begin_flow(p, s, place, direction, counter);
	return pass_first(s, counter);
}

/* Judges any other packet that has a key in conntrack. */
static __always_inline void flow(const struct packet *p, struct scene *s, const struct pod_state *pod)
{
	__u8 direction = p->direction & 1, beginner = direction;
	struct ct *place, *ct = live_flow(p, s, &place);
	__u32 counter;

	s->which = questions(p, s, ct);
	ask(0);
	if (ct) {
		counter = known_flow(p, s, ct);
		return counter ? pass(s, counter) : deny(p, s, pod, ct->flags ? direction : ct->direction);
	}
	if (s->exempt) {
		counter = exempt_counter(s->exempt, direction);
	} else {
		if (s->which == (ASK(INGRESS) | ASK(EGRESS)))
			beginner = began(p, s);
		counter = s->verdict[beginner & 1];
	}
	if (!counter)
		return deny(p, s, pod, direction);
	if (s->own)
		begin_flow(p, s, place, beginner, counter);
	return pass_first(s, counter);
}

static __always_inline int same_remote(const struct packet *p, const struct packet *q)
{
	return p->family == 4 ? p->key.v4.remote_be == q->key.v4.remote_be :
				same6(p->key.v6.remote_be, q->key.v6.remote_be);
}

/* Whether an ICMP error quotes a flow that is allowed, and goes to the one who sent what it quotes. */
static __noinline int quotes_allowed(struct __sk_buff *skb, struct scratch *scratch, const struct pod_state *pod)
{
	const struct packet *p = &scratch->packet[0];
	struct packet *q = &scratch->packet[QUOTED];
	struct scene *s = &scratch->scene;
	struct ct *ct;

	__builtin_memset(q, 0, sizeof(*q));
	q->direction = !p->direction;
	q->ifindex = p->ifindex;
	q->l4 = p->l4 + 8;
	parse_ip(skb, p->family == 6, QUOTED);
	if (q->reason || q->kind != KIND_FLOW || !s->own || !owns_local(q, pod, s->slot))
		return 0;
	if (p->direction == EGRESS && !same_remote(p, q))
		return 0;
	ct = ct_lookup(&q->key, q->family);
	if (ct && ct->slot == s->slot && !ct_expired(ct, s->now)) {
		if (ct->flags || ct->stamp == stamp_of(s->word[ct->direction & 1], s->epoch))
			return 1;
		s->which = ASK(ct->direction);
	} else {
		s->which = ASK(INGRESS) | ASK(EGRESS);
	}
	ask(QUOTED);
	return s->verdict[INGRESS] || s->verdict[EGRESS];
}

/*
 * Who sends a packet that comes to the pod: what the node itself sends has no receiving link, and what a pod sends to
 * itself by way of its Service comes back on the veth that it left by.
 */
static __always_inline __u8 exempt_of(struct __sk_buff *skb, __u8 direction)
{
	if (direction == EGRESS)
		return 0;
	if (!skb->ingress_ifindex)
		return CT_NODE;
	return skb->ingress_ifindex == skb->ifindex ? CT_SELF : 0;
}

static __always_inline int to_itself(const struct packet *p)
{
	return p->family == 4 ? p->key.v4.local_be == p->key.v4.remote_be :
				same6(p->key.v6.local_be, p->key.v6.remote_be);
}

/* A packet of a known pod. */
static __always_inline void consider(struct __sk_buff *skb, struct scratch *scratch, const struct pod_state *pod)
{
	struct packet *p = &scratch->packet[0];
	struct scene *s = &scratch->scene;
	__u8 direction = p->direction & 1;
	__u32 counter;

	if (p->kind == KIND_ARP) {
		if (direction == EGRESS && !arp_is_own(skb, p, pod, s->slot))
			return drop(p, s, REASON_SPOOFED);
	} else if (p->family) {
		s->own = owns_local(p, pod, s->slot);
		if (direction == EGRESS && !s->own && !may_send_unowned(p))
			return drop(p, s, REASON_SPOOFED);
		/* What comes to the pod with its own address as source may come from anybody, unless by the pod's own link. */
		if (direction == EGRESS && s->own && to_itself(p))
			s->exempt = CT_SELF;
	}
	if (p->reason) {
		if (p->always && s->exempt != CT_NODE)
			return drop(p, s, p->reason);
		return refuse(p, s, direction, p->reason);
	}
	switch (p->kind) {
	case KIND_FLOW:
		return asks(p) ? request(p, s, pod) : flow(p, s, pod);
	case KIND_NEIGHBOUR:
		if (direction == EGRESS && !advertises_own(skb, p, pod, s->slot))
			return drop(p, s, REASON_SPOOFED);
		return pass(s, COUNTER(REASON_NEIGHBOUR, direction));
	case KIND_ARP:
		return pass(s, COUNTER(REASON_NEIGHBOUR, direction));
	case KIND_ROUTER:
		if (direction == EGRESS)
			return drop(p, s, REASON_ROUTER);
		/* An advertisement may come to a pod from a real router, if policy lets it; a redirect may not. */
		if (!(p->protocol == IPPROTO_ICMPV6 && p->icmp_type == ICMP6_ROUTER_ADVERTISEMENT))
			return refuse(p, s, direction, REASON_ROUTER);
		break;
	case KIND_ICMP_ERROR:
		if (psid_of(s->word[direction]) != PSID_OPEN && !s->exempt && !quotes_allowed(skb, scratch, pod))
			return refuse(p, s, direction, REASON_UNRELATED);
		return pass(s, COUNTER(REASON_ICMP_ERROR, direction));
	default:
		break;
	}
	s->which = s->exempt ? 0 : ASK(direction);
	ask(0);
	counter = s->exempt ? exempt_counter(s->exempt, direction) : s->verdict[direction];
	return counter ? pass(s, counter) : deny(p, s, pod, direction);
}

/* Sets the scene, and counts and reports what comes of it. */
static __always_inline int begin(struct __sk_buff *skb, struct scratch *scratch)
{
	struct packet *p = &scratch->packet[0];
	struct scene *s = &scratch->scene;
	__u32 ifindex = p->ifindex, zero = 0, slot;
	struct pod_if *interface = bpf_map_lookup_elem(&pod_if, &ifindex);
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct pod_state *pod = NULL;

	s->exempt = exempt_of(skb, p->direction);
	s->own = 0;
	s->dropped = s->first = s->audited = s->reason = s->log_allowed = 0;
	s->slot = 0;
	if (interface && c) {
		slot = interface->slot;
		pod = bpf_map_lookup_elem(&pod_state, &slot);
	}
	if (pod && c) {
		s->slot = slot;
		s->epoch = *(volatile __u32 *)&c->epoch;
		s->word[INGRESS] = *(volatile __u64 *)&pod->direction[INGRESS];
		s->word[EGRESS] = *(volatile __u64 *)&pod->direction[EGRESS];
		s->audited_by[INGRESS] = *(volatile __u32 *)&pod->audited_by[INGRESS];
		s->audited_by[EGRESS] = *(volatile __u32 *)&pod->audited_by[EGRESS];
		s->now = now_jiffies();
		s->log_allowed = c->log_allowed || pod->flags & POD_LOG_ALLOWED;
		consider(skb, scratch, pod);
	} else if (s->exempt == CT_NODE) {
		pass(s, COUNTER(REASON_NODE, INGRESS));
	} else {
		drop(p, s, REASON_UNKNOWN_POD);
	}
	/* What follows reads the verdict from the map, or the verifier would walk it once for each way that led here. */
	asm volatile("" ::: "memory");
	count(s->counter, p->length);
	if (s->dropped || s->audited || (s->first && s->log_allowed))
		report(s);
	return s->dropped ? VERDICT_DROP : VERDICT_PASS;
}

/* Whether a packet is of a flow whose last verdict still holds; if so, it is counted. */
static __always_inline int established(struct __sk_buff *skb, const struct plain *q, struct ct *ct, const __u8 direction)
{
	__u32 slot = ct->slot, zero = 0, now = now_jiffies();
	struct pod_state *pod = bpf_map_lookup_elem(&pod_state, &slot);
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	if (!pod || !c || ct->stamp != stamp_of(pod->direction[ct->direction & 1], c->epoch) || ct_expired(ct, now))
		return 0;
	if (ct->flags && direction == INGRESS)
		return 0;
	ct_touch(ct, direction, q->protocol, q->tcp_flags, now);
	count(ct->counter, skb->len);
	return 1;
}

static __always_inline int judge(struct __sk_buff *skb, const __u8 direction)
{
	struct scratch *slow;
	struct packet *p;
	struct plain q;
	__u8 family, unknown = 0;
	int verdict;

	family = quick(skb, &q, direction);
	if (family && !syn_only(q.protocol, q.tcp_flags)) {
		struct ct *ct = ct_lookup(&q.key, family);

		if (ct && established(skb, &q, ct, direction))
			return VERDICT_PASS;
		unknown = !ct;
	}
	slow = scratch_of_cpu();
	if (!slow)
		return VERDICT_DROP;
	p = &slow->packet[0];
	if (family) {
		copy_plain(skb, p, &q, family, direction);
		p->unknown = unknown;
	} else {
		parse(skb, p, direction);
	}
	verdict = begin(skb, slow);
	if (verdict == VERDICT_PASS && p->fragment == FRAGMENT_FIRST && p->family && !p->reason)
		frag_store(p);
	return verdict;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return judge(skb, EGRESS);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return judge(skb, INGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
