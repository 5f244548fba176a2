/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What is counted and reported of a verdict. */
#ifndef PALISADE_EVENTS_H
#define PALISADE_EVENTS_H

#include "policy.h"

#define VERDICT_PASS (-1) /* TCX_NEXT, TC_ACT_UNSPEC: other programs on the veth still run */
#define VERDICT_DROP 2    /* TCX_DROP, TC_ACT_SHOT */

static __always_inline void count(__u32 index, __u32 bytes)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &index);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

/* Within the CPU's budget for this second; what is over it is counted as lost. */
static __always_inline int event_allowed(void)
{
	__u32 zero = 0, now = now_jiffies();
	struct event_budget *budget = bpf_map_lookup_elem(&event_budget, &zero);

	if (!budget)
		return 0;
	if (now - budget->second >= hz) {
		budget->second = now;
		budget->sent = 0;
	}
	if (budget->sent >= events_per_second) {
		budget->lost++;
		return 0;
	}
	budget->sent++;
	return 1;
}

/* Tells the agent of packet[0], whatever the budget. */
__noinline int send_event(__u32 slot, __u32 counter, __u32 reason, __u32 outcome)
{
	struct scratch *scratch = scratch_of_cpu();
	const __u32 *local, *remote;
	const struct packet *p;
	struct event e = {};
	__u32 zero = 0;

	if (!scratch)
		return 0;
	p = &scratch->packet[0];
	e.time = bpf_ktime_get_ns();
	e.ifindex = p->ifindex;
	e.slot = slot;
	if (p->family == 4) {
		e.source_be[0] = p->direction == EGRESS ? p->key.v4.local_be : p->key.v4.remote_be;
		e.destination_be[0] = p->direction == EGRESS ? p->key.v4.remote_be : p->key.v4.local_be;
	} else if (p->family == 6) {
		local = p->key.v6.local_be;
		remote = p->key.v6.remote_be;
		__builtin_memcpy(e.source_be, p->direction == EGRESS ? local : remote, 16);
		__builtin_memcpy(e.destination_be, p->direction == EGRESS ? remote : local, 16);
	}
	e.source_port_be = p->direction == EGRESS ? local_port_be(p) : remote_port_be(p);
	e.destination_port_be = p->direction == EGRESS ? remote_port_be(p) : local_port_be(p);
	e.ethertype_be = p->ethertype_be;
	e.protocol = p->protocol;
	e.direction = p->direction;
	e.outcome = outcome;
	e.reason = reason;
	e.tcp_flags = p->tcp_flags;
	e.icmp_type = p->icmp_type;
	e.counter = counter;
	e.length = p->length;
	if (bpf_ringbuf_output(&events, &e, sizeof(e), 0)) {
		struct event_budget *budget = bpf_map_lookup_elem(&event_budget, &zero);

		if (budget)
			budget->lost++;
	}
	return 0;
}

/* Tells the agent of packet[0], if the budget allows it: mostly it does not, and then nothing of the event is put together. */
static __always_inline void report(const struct scene *s)
{
	if (!event_allowed())
		return;
	if (s->dropped)
		send_event(s->slot, s->reason ? 0 : s->counter, s->reason, OUTCOME_DROPPED);
	else
		send_event(s->slot, s->counter, s->reason, s->audited ? OUTCOME_AUDITED : OUTCOME_ALLOWED);
}

/* The verdicts. They are counted, reported and carried out in one place: see begin(). */

/* A counters index, or a psid, without the mark of an audit. */
static __always_inline __u32 unmarked(__u32 counter)
{
	return counter & ~AUDITED;
}

/* `counter`: a verdict's, see asked(). */
static __always_inline void pass(struct scene *s, __u32 counter)
{
	s->audited = counter >> 31;
	s->counter = unmarked(counter);
}

/* Passed as the first packet of a flow. */
static __always_inline void pass_first(struct scene *s, __u32 counter)
{
	s->first = 1;
	pass(s, counter);
}

/* Dropped for a reason of its own. */
static __always_inline void drop(const struct packet *p, struct scene *s, __u8 reason)
{
	s->dropped = 1;
	s->reason = reason;
	s->counter = COUNTER(reason, p->direction);
}

/* The verdict where policy in audit would deny. A direction that has just left its audit may have no such counter any more. */
static __always_inline __u32 audited(const struct scene *s, __u8 direction)
{
	__u32 counter = s->audited_by[direction & 1];

	return counter ? counter | AUDITED : COUNTER(REASON_OPEN, direction & 1);
}

/*
 * For what cannot be judged by rules: dropped where policy isolates, passed where the direction is open, and passed and counted
 * where it is in audit.
 */
static __always_inline void refuse(const struct packet *p, struct scene *s, __u8 direction, __u8 reason)
{
	__u32 psid = s->word[direction & 1] >> 32;

	if (s->exempt == CT_NODE)
		return pass(s, COUNTER(REASON_NODE, direction));
	if (psid == PSID_OPEN)
		return pass(s, COUNTER(REASON_OPEN, direction));
	if (!(psid & AUDITED))
		return drop(p, s, reason);
	pass(s, audited(s, direction));
	s->reason = reason;
}

/* Dropped because no policy that isolates the pod in `direction` allows it. */
static __always_inline void deny(const struct packet *p, struct scene *s, const struct pod_state *pod, __u8 direction)
{
	__u32 counter = pod->denied_by[direction & 1];

	if (!counter)
		return drop(p, s, REASON_UNKNOWN_POD);
	s->dropped = 1;
	s->counter = counter;
}

#endif
