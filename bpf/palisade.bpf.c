// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* The two programs of a pod's host-side veth. */
#include "maps.h"

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	return 2;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return 2;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
