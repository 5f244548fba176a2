/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Switches that the agent sets before load. The verifier sees them as constants. */
#ifndef PALISADE_CONFIG_H
#define PALISADE_CONFIG_H

#include <bpf/bpf_helpers.h>

#include "abi.h"

const volatile __u32 hz = 250;                 /* jiffies a second */
const volatile __u32 timeouts[CT_STATES] = {}; /* jiffies, by enum ct_state */
const volatile __u32 frag_timeout = 30 * 250;  /* jiffies */
const volatile __u32 events_per_second = 200;  /* of each CPU */

/* Nothing else names it: the skeleton has the type of an event because of this. */
const volatile struct event event_type = {};

static __always_inline __u32 now_jiffies(void)
{
	return bpf_jiffies64();
}

/* Another CPU may have stored a later `seen` than our now: the difference is signed. */
static __always_inline int older_than(__u32 seen, __u32 now, __u32 limit)
{
	return (__s32)(now - seen) > (__s32)limit;
}

#endif
