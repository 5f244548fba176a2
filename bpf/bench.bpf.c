// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* What `make bench` measures the programs against. Never loaded by the agent. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define PASS (-1)
#define DROP 2

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct4_key);
	__type(value, struct ct);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct ct6_key);
	__type(value, struct ct);
} flows6 SEC(".maps");

/* What a run costs without a program to speak of. */
SEC("tc")
int empty(struct __sk_buff *skb)
{
	return PASS;
}

/* One lookup that hits; the bench puts this key into the map. */
SEC("tc")
int lookup4(struct __sk_buff *skb)
{
	struct ct4_key key = { .ifindex = 1 };

	return bpf_map_lookup_elem(&flows4, &key) ? PASS : DROP;
}

SEC("tc")
int lookup6(struct __sk_buff *skb)
{
	struct ct6_key key = { .ifindex = 1 };

	return bpf_map_lookup_elem(&flows6, &key) ? PASS : DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
