/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the tracing programs tell of a packet: noted in the scene as it is judged, sent at the end. */
#ifndef PALISADE_TRACE_H
#define PALISADE_TRACE_H

#include "conntrack.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_filter);
} trace_filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_counts);
} trace_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} trace_ring SEC(".maps");

/* Nothing else names it: the skeleton has the type of a record because of this. */
const volatile struct trace trace_type = {};

/* `family`: as quick() said. */
static __always_inline void trace_begin(struct scene *s, __u8 family)
{
	__builtin_memset(&s->trace, 0, sizeof(s->trace));
	s->trace.steps = family ? TRACE_PLAIN : 0;
}

/* What conntrack has, before the packet changes it. */
static __always_inline void trace_flow(struct scene *s, const struct ct *ct)
{
	s->trace.steps |= TRACE_ASKED;
	if (!ct)
		return;
	s->trace.steps |= TRACE_FOUND;
	s->trace.flow = *ct;
	if (ct->slot != s->slot)
		s->trace.steps |= TRACE_FOREIGN;
	else if (ct_expired(ct, s->now))
		s->trace.steps |= TRACE_EXPIRED;
	else if (ct->stamp == stamp_of(s->word[ct->direction & 1], s->epoch))
		s->trace.steps |= TRACE_CURRENT;
}

static __always_inline void trace_answer(struct scene *s, __u8 direction, __u32 psid, __u32 counter)
{
	struct trace_answer *answer = answer_of(s, direction);

	answer->question |= QUESTION_ASKED;
	answer->psid = psid;
	answer->counter = counter;
}

/* A packet that established() has passed, as begin() would have left it. */
static __always_inline void trace_established(struct __sk_buff *skb, const struct plain *q, __u8 family, const struct ct *ct,
					      const struct pod_state *pod, __u32 epoch, __u32 now, __u8 direction)
{
	struct scratch *scratch = scratch_of_cpu();
	struct scene *s;

	if (!scratch)
		return;
	copy_plain(skb, &scratch->packet[0], q, family, direction);
	s = &scratch->scene;
	trace_begin(s, family);
	s->trace.steps |= TRACE_ESTABLISHED | TRACE_POD;
	s->word[INGRESS] = pod->direction[INGRESS];
	s->word[EGRESS] = pod->direction[EGRESS];
	s->audited_by[INGRESS] = pod->audited_by[INGRESS];
	s->audited_by[EGRESS] = pod->audited_by[EGRESS];
	s->epoch = epoch;
	s->now = now;
	s->slot = ct->slot;
	s->counter = ct->counter;
	s->exempt = s->dropped = s->first = s->audited = s->reason = 0;
	s->own = 1;
	trace_flow(s, ct);
}

static __always_inline void trace_headers(struct trace_headers *h, const struct packet *p)
{
	if (p->family == 4) {
		h->source_be[0] = p->direction == EGRESS ? p->key.v4.local_be : p->key.v4.remote_be;
		h->destination_be[0] = p->direction == EGRESS ? p->key.v4.remote_be : p->key.v4.local_be;
	} else if (p->family == 6) {
		__builtin_memcpy(h->source_be, p->direction == EGRESS ? p->key.v6.local_be : p->key.v6.remote_be, 16);
		__builtin_memcpy(h->destination_be, p->direction == EGRESS ? p->key.v6.remote_be : p->key.v6.local_be, 16);
	}
	h->source_port_be = p->direction == EGRESS ? local_port_be(p) : remote_port_be(p);
	h->destination_port_be = p->direction == EGRESS ? remote_port_be(p) : local_port_be(p);
	h->id_be = p->id_be;
	h->ethertype_be = p->ethertype_be;
	h->l4 = p->l4;
	h->l4_length = p->l4_length;
	h->fragment_offset = p->fragment_offset;
	h->family = p->family;
	h->protocol = p->protocol;
	h->kind = p->kind;
	h->reason = p->reason;
	h->fragment = p->fragment;
	h->tcp_flags = p->tcp_flags;
	h->icmp_type = p->icmp_type;
	h->hop_limit = p->hop_limit;
	h->tagged = p->tagged;
}

static __always_inline int within(const __u32 *addr_be, const __u32 *block_be, const __u32 *mask_be)
{
	return !(((addr_be[0] & mask_be[0]) ^ block_be[0]) | ((addr_be[1] & mask_be[1]) ^ block_be[1]) |
		 ((addr_be[2] & mask_be[2]) ^ block_be[2]) | ((addr_be[3] & mask_be[3]) ^ block_be[3]));
}

/* Whether they are of a flow that is asked for, whichever way they go. */
static __always_inline int trace_wants_flow(const struct trace_filter *f, const struct trace_headers *h)
{
	int forth, back, portless = h->fragment == FRAGMENT_LATER && h->reason;

	if ((f->source_family && f->source_family != h->family) ||
	    (f->destination_family && f->destination_family != h->family))
		return 0;
	if (!f->any_protocol && (f->protocol != h->protocol || !h->family))
		return 0;
	forth = within(h->source_be, f->source_be, f->source_mask_be) &&
		within(h->destination_be, f->destination_be, f->destination_mask_be) &&
		(!f->port_be || portless || f->port_be == h->destination_port_be);
	back = within(h->destination_be, f->source_be, f->source_mask_be) &&
	       within(h->source_be, f->destination_be, f->destination_mask_be) &&
	       (!f->port_be || portless || f->port_be == h->source_port_be);
	return forth || back;
}

static __always_inline int trace_wants(const struct trace_filter *f, const struct trace *t)
{
	return f->verdicts & 1 << (t->outcome & 31) && f->reasons & 1 << (t->reason & 31) &&
	       (trace_wants_flow(f, &t->headers) || (t->steps & TRACE_QUOTED && trace_wants_flow(f, &t->quoted)));
}

/* Of a known flow too whether only an audit lets it pass, which is not news to begin(). */
static __always_inline __u8 outcome_of(const struct scene *s)
{
	if (s->dropped)
		return OUTCOME_DROPPED;
	if (s->audited)
		return OUTCOME_AUDITED;
	if (!(s->trace.steps & TRACE_POD) || s->counter < COUNTER_FIRST)
		return OUTCOME_ALLOWED;
	return s->counter == s->audited_by[INGRESS] || s->counter == s->audited_by[EGRESS] ? OUTCOME_AUDITED :
											     OUTCOME_ALLOWED;
}

/* Tells of packet[0] what is asked for, until enough is told. */
__noinline int send_trace(struct __sk_buff *skb)
{
	struct trace_counts *counts;
	struct trace_filter *filter;
	struct scratch *scratch;
	struct scene *s;
	struct trace *t;
	__u32 zero = 0;

	scratch = scratch_of_cpu();
	filter = bpf_map_lookup_elem(&trace_filter, &zero);
	counts = bpf_map_lookup_elem(&trace_counts, &zero);
	if (!scratch || !filter || !counts)
		return 0;
	counts->seen++;
	if (filter->sent >= filter->limit || bpf_ktime_get_ns() > filter->until)
		return 0;
	t = &scratch->record;
	s = &scratch->scene;
	__builtin_memset(t, 0, sizeof(*t));
	t->time = bpf_ktime_get_ns();
	trace_headers(&t->headers, &scratch->packet[0]);
	if (s->trace.steps & TRACE_QUOTED)
		trace_headers(&t->quoted, &scratch->packet[QUOTED]);
	t->answer[INGRESS] = s->trace.answer[INGRESS];
	t->answer[EGRESS] = s->trace.answer[EGRESS];
	t->flow = s->trace.flow;
	t->steps = s->trace.steps;
	if (t->steps & TRACE_POD) {
		t->steps |= s->own ? TRACE_OWN : 0;
		t->generation[INGRESS] = s->word[INGRESS];
		t->generation[EGRESS] = s->word[EGRESS];
		t->psid[INGRESS] = psid_of(s->word[INGRESS]);
		t->psid[EGRESS] = psid_of(s->word[EGRESS]);
		t->epoch = s->epoch;
		t->now = s->now;
		t->slot = s->slot;
	}
	t->ifindex = skb->ifindex;
	t->ingress_ifindex = skb->ingress_ifindex;
	t->length = skb->len;
	t->counter = s->counter;
	t->direction = scratch->packet[0].direction;
	t->exempt = s->exempt;
	t->outcome = outcome_of(s);
	t->reason = s->reason ? s->reason : s->counter < COUNTER_FIRST ? s->counter >> 1 : REASON_NONE;
	t->first = s->first;
	if (!trace_wants(filter, t))
		return 0;
	__sync_fetch_and_add(&filter->sent, 1);
	if (bpf_ringbuf_output(&trace_ring, t, sizeof(*t), 0))
		counts->lost++;
	return 0;
}

#endif
