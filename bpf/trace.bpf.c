// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The same two programs, which also tell of each packet how they judged it. The agent loads them when a trace begins, and has them
 * take the others' place on the interfaces that are traced, for as long as it lasts: what is not traced pays nothing.
 */
#define TRACING

#include "palisade.bpf.c"
