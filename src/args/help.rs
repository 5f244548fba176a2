//! What `--help` says besides the flags: meaning, examples, the shapes of JSON answers, exit codes.

/// Under `palisade --help`.
pub(super) const COMMON: &str = "\
Exit codes:
  0  done; for check: no problem found
  1  check: problems found; diff: changes found; run, clean, uninstall: failed
  2  wrong usage, the folder or the cluster cannot be read, or no agent answers

Environment:
  KUBECONFIG    the cluster that is asked where --from names no folder; ~/.kube/config where it is not set
  PALISADE_LOG  what is logged to stderr, as in info or palisade::node=debug (default: info)
  Each flag can be set by the variable that its help names; the command line wins.";

pub(super) const RUN: &str = "\
From a folder: reads Namespace, Pod, NetworkPolicy, Service and EndpointSlice objects, follows every edit, and finds the
pods' interfaces by their addresses. In a cluster: every instance enforces on its own node, and the elected one resolves.
SIGTERM and SIGINT stop the process and leave enforcement in place; `palisade clean` removes it.

Examples:
  palisade run --from examples/shop --listen 127.0.0.1:9810
  palisade run --node-name worker-1 --controller=off

Exit codes: 0 stopped by a signal; 1 failed; 2 wrong usage.";

pub(super) const UNINSTALL: &str = "\
To be run on each node, after the DaemonSet is gone: while an instance runs, nothing is removed.

Exit codes: 0 done; 1 failed; 2 wrong usage.";

pub(super) const CHECK: &str = "\
One line a problem: object: field = value: what is wrong; what to do. Then what was read and what was passed over.

Examples:
  palisade check --from examples/shop
  KUBECONFIG=~/.kube/config palisade check

JSON: {\"problems\":[{\"object\",\"field\",\"value\",\"message\",\"remedy\"}],\"read\":{KIND:COUNT},\"skipped\":{KIND:COUNT}}

Exit codes: 0 no problem; 1 problems; 2 wrong usage, or the folder or the cluster cannot be read.";

pub(super) const EXPLAIN: &str = "\
SRC and DST are NAMESPACE/POD or an address; an address that a pod has stands for that pod, and DST may be a
Service's ClusterIP. PORT/PROTO is the destination port and TCP, UDP or SCTP, as in 80/TCP; for protocols without
ports, ICMP (ICMPv6 between IPv6 addresses) or another IP protocol's number. With --drop, the packet is that of a flow's line, and
the answer compares what the line tells with what policies say now. Of pods on this node, where its agent answers (as root), it says too what
the kernel's maps hold, and whether the two agree.

Examples:
  palisade explain --from examples/shop shop/web-0 shop/api-0 9000/TCP
  palisade explain --from examples/shop 203.0.113.9 shop/web-0 8080/TCP -o json
  palisade explain --from examples/shop guest/intruder shop/db-0 ICMP
  KUBECONFIG=~/.kube/config palisade explain shop/web-0 shop/api-0 9000/TCP
  palisade flows -o json | head -n 1 | palisade explain --drop -

JSON:
  {\"from\",\"to\",\"port\",\"flows\":[{\"family\",\"source\",\"destination\",\"egress\",\"ingress\",\"verdict\"}],\"notes\",\"reported\"}
  from and to are {\"pod\",\"service\",\"addresses\"}, the first two where there is one; there is a flow for each pair
  of addresses of one family; egress and ingress are {\"verdict\",\"because\",…}, with because one of
    open        no policy selects the pod in this direction
    rule        \"policy\" and \"rule\": the first rule that allows; \"others\":[{\"policy\",\"rule\"}] that allow it too, none if it is the
                only one; \"isolatedBy\": all policies that isolate this side
    isolated    \"policies\":[{\"policy\",\"rules\":[{\"rule\",\"reason\"}],\"problems\"}]: none allows; \"nearest\":{\"policy\",\"rule\",
                \"missing\"}, where there is one: the rule that needs the fewest changes at the packet's ends to allow it, each of
                which has \"missing\": port, targetPort, containerPort, pod, address, label, or namespace
    audited     likewise, of policies in audit: it passes, and \"verdict\" is audit
    itself      a pod always reaches itself, through its own Service too
    notSubject  \"detail\": no pod, or one that policies do not apply to
    service     \"service\",\"backends\":[{\"address\",\"port\",\"pod\",\"ingress\"}]: each ready backend of the ClusterIP
  egress and ingress have \"kernel\":{\"node\",\"verdict\",\"reason\",\"policies\",\"rule\",\"attached\",\"agrees\"} where the pod is on this node
  reported, with --drop, is {\"time\",\"node\",\"verdict\",\"direction\",\"reason\",\"policies\",\"rule\",\"agrees\"}

Exit codes: 0 answered, whatever the answer is; 2 wrong usage, no such pod, or the folder or the cluster cannot be read.
Problems in it go to stderr.";

pub(super) const MATRIX: &str = "\
A row for each ordered pair of pods, each family that both have, and each --port. A pod with itself, pods of the host
network, finished pods, and pods without an address are left out. A pod with several addresses of one family counts
with the first.

Examples:
  palisade matrix --from examples/shop --port 8080/TCP
  palisade matrix --from examples/shop --port 53/UDP --port ICMP -o json
  KUBECONFIG=~/.kube/config palisade matrix --port 443/TCP

JSON: [{\"from\",\"to\",\"family\",\"port\",\"egress\",\"ingress\",\"verdict\"}], family IPv4 or IPv6, the last three allow or deny;
sorted by from, to and family, ports in the order given.

Exit codes: 0 answered; 2 wrong usage, or the folder or the cluster cannot be read. Problems in it go to stderr.";

pub(super) const DIFF: &str = "\
What is lost (allowed before, denied after) and what is gained, with the policy and rule that decide before and after. Compared is every
pod with every other one, with each Service's ClusterIP, and with all other addresses: those that policies name one by one,
and each block as a whole, with one of its addresses as an example. Ports are exact: all of which the verdict changes, and no others.
A pod with itself is never meant. What policies in audit would deny passes, and counts as allowed. Pods, Namespaces, Services and EndpointSlices stay as they are.

Examples:
  palisade diff --from examples/shop --with edited/
  KUBECONFIG=~/.kube/config palisade diff --with policies/ || echo 'this changes something'
  palisade diff --from examples/shop --delete shop/default-deny -o json

JSON:
  {\"changes\":[{\"change\",\"from\",\"to\",\"families\",\"ports\",\"egress\",\"ingress\"}],\"notes\"}
  change is lost or gained; it holds from each of from to each of to, each of which is one of
    {\"pod\"}, with \"address\" where it has several of one family; {\"service\",\"address\"}; {\"address\"}; {\"block\",\"except\",\"address\"}: an example, and the block but for
    smaller ones and the addresses of pods and Services
  ports are as in 80/TCP and 8000-8010/UDP; TCP, UDP, SCTP: all ports of it; other: all other protocols
  egress and ingress, where that end is a pod, are {\"before\",\"after\"} of {\"verdict\",\"because\",…}, with because one of
    open, itself, rule (\"policy\",\"rule\"), isolated and audited (\"policies\"), as in explain

Exit codes: 0 no change; 1 changes; 2 wrong usage, or a folder cannot be read as it is written. Problems that come with the edit go to
stderr.";

pub(super) const CLEAN: &str = "\
Works after a crash too. Where nothing is left, it does nothing.

Exit codes: 0 nothing is left; 1 something could not be removed; 2 wrong usage.";

pub(super) const TRACE: &str = "\
Asks the agent of this node, which puts programs that tell of their steps in the place of those at the pods' interfaces, for as
long as the trace lasts; they judge alike, and no packet goes unjudged in between. Without --pod, that is at every pod of the
node. What is not traced costs nothing more. There is one trace at a time on a node; it ends with this command.

--source, --destination, --port and --protocol are those of a flow's first packet: its packets are shown both ways, and so are
ICMP errors that quote it.

Examples:
  palisade trace --pod shop/web-0 --for 10s
  palisade trace --source 10.0.3.7 --destination 10.0.0.0/16 --port 8080 --protocol TCP --packets 20
  palisade trace --reason isolation --for 1m -o json

JSON, one object a line:
  {\"type\":\"begun\",\"node\"}: packets are told of from here on
  {\"type\":\"packet\",\"time\",\"node\",\"pod\",\"ifindex\",\"receivedOn\",\"direction\",\"length\",\"headers\",\"quoted\",\"established\",\"ownAddress\",
   \"exempt\",\"conntrack\",\"policy\",\"verdict\",\"by\",\"recorded\",\"firstKept\"}
  headers and quoted are {\"protocol\",\"source\",\"destination\",\"tcpFlags\",\"icmpType\",\"echo\",\"fragment\":{\"id\",\"offset\"},\"tagged\",\"kind\",
   \"inPlace\",\"unfit\"}; conntrack is {\"lookup\":\"none\" | \"miss\" | \"hit\",\"standing\",\"state\",\"began\",\"exempt\",\"ageSeconds\",\"stamp\",
   \"stampNow\",\"by\"}; policy is a list of {\"direction\",\"ruleSet\",\"audited\",\"isolatedBy\",\"class\",\"classBy\",\"row\",
   \"table\":{\"id\",\"protocol\",\"port\",\"nodes\"},\"allows\",\"by\"}; by is {\"reason\",\"audit\",\"policies\",\"rule\"}
  {\"type\":\"end\",\"node\",\"why\":\"time\" | \"packets\" | \"agent\",\"packets\",\"seen\",\"lost\"}
  What a packet does not have, or nobody knows, is left out.

Exit codes: 0 answered; 2 wrong usage, no such pod, another trace is under way, or no agent answers.";

pub(super) const FLOWS: &str = "\
Asks the agent of this node; `kubectl palisade flows` asks those of all nodes. What is shown is the first packet of a flow, or
each packet that is denied, as far as the agent reports them (`palisade run --events-per-second`); a line says how many were lost.

Examples:
  palisade flows --follow --verdict denied
  palisade flows --pod shop/web-0 --direction ingress --port 8080 -o wide
  palisade flows --reason isolation --policy default-deny --last 1000 -o json

JSON, one object a line:
  {\"type\":\"flow\",\"time\",\"node\",\"verdict\",\"direction\",\"reason\",\"pod\",\"ifindex\",\"policies\",\"rule\",\"source\",\"destination\",
   \"protocol\",\"tcpFlags\",\"icmpType\",\"length\"}
  source and destination are {\"address\",\"port\",\"pod\",\"service\"}; what a packet does not have, or nobody knows, is left out
  {\"type\":\"lost\",\"time\",\"node\",\"lost\",\"by\"}: so many were not seen, by the kernel, the agent or this reader

Exit codes: 0 answered; 2 wrong usage, no such pod, namespace or policy, or no agent answers.";

pub(super) const STATUS: &str = "\
Asks the agent of this node; `kubectl palisade status` asks those of all nodes.

Examples:
  palisade status
  palisade status -o json | jq .problems

JSON: {\"node\",\"version\",\"source\",\"started\",\"ready\",\"waitingFor\",\"leader\",\"kernel\",\"pods\",\"interfaces\",\"policies\",
  \"policiesInForce\",\"lastChange\",\"queue\",\"watches\",\"flows\",\"problems\",\"metrics\"}

Exit codes: 0 it is ready and what is wanted is in force; 1 it is not; 2 wrong usage, or no agent answers.";

pub(super) const PODS: &str = "\
Asks the agent of this node; `kubectl palisade pods` asks those of all nodes.

Examples:
  palisade pods
  palisade pods shop/web-0 -o yaml

JSON: [{\"node\",\"pod\",\"uid\",\"addresses\",\"sourcePrefixes\",\"interfaces\":[{\"ifindex\",\"name\"}],\"ingress\",\"egress\",
  \"logAllowed\"}]
  ingress and egress are {\"state\",\"policies\",\"ruleSet\"}, state open, isolated, audit or unknown

Exit codes: 0 answered; 2 wrong usage, no such pod or namespace, or no agent answers.";

pub(super) const POLICIES: &str = "\
Asks the agent of this node; `kubectl palisade policies` asks those of all nodes.
What is denied counts for each of the policies that isolate the pod together.

Examples:
  palisade policies -n shop
  palisade policies shop/db -o json

JSON: [{\"node\",\"policy\",\"directions\",\"pods\",\"slices\",\"entries\",\"allowed\":{\"packets\",\"bytes\"},\"denied\",\"audited\"}]

Exit codes: 0 answered; 2 wrong usage, no such policy or namespace, or no agent answers.";

pub(super) const CONNTRACK: &str = "\
Asks the agent of this node; `kubectl palisade conntrack` asks those of all nodes.
Source is who began. A flow that is stale is judged anew at its next packet.

Examples:
  palisade conntrack --pod shop/web-0
  palisade conntrack --port 5432 --limit 1000 -o json

JSON: {\"flows\":[{\"node\",\"pod\",\"ifindex\",\"direction\",\"source\",\"destination\",\"protocol\",\"state\",\"idleSeconds\",\"reason\",\"policies\",
  \"rule\",\"current\"}],\"more\"}

Exit codes: 0 answered; 2 wrong usage, no such pod, or no agent answers.";

pub(super) const MAPS: &str = "\
Asks the agent of this node; `kubectl palisade maps` asks those of all nodes.

Example:
  palisade maps

JSON: [{\"node\",\"map\",\"id\",\"kind\",\"keyBytes\",\"valueBytes\",\"entries\",\"capacity\",\"memoryBytes\",\"flag\"}]

Exit codes: 0 answered; 2 wrong usage, or no agent answers.";

pub(super) const PROGS: &str = "\
Asks the agent of this node; `kubectl palisade progs` asks those of all nodes.
Runs and their time are counted while the sysctl kernel.bpf_stats_enabled is 1.

Example:
  palisade progs

JSON: [{\"node\",\"program\",\"direction\",\"id\",\"tag\",\"loaded\",\"verifiedInstructions\",\"jitedBytes\",\"runs\",\"runNanoseconds\",
  \"interfaces\",\"missing\"}]

Exit codes: 0 answered; 2 wrong usage, or no agent answers.";

pub(super) const BUGREPORT: &str = "\
The archive holds what status, pods, policies, maps, progs, conntrack and flows show, the metrics, and what the kernel is. So it
names pods, policies and addresses. It holds no secrets: no environment, no kubeconfig, no tokens, no payload of any packet.

Examples:
  palisade bugreport
  kubectl -n kube-system exec palisade-x7k2p -- /palisade bugreport -f - > node.tar.gz

Exit codes: 0 written; 2 wrong usage, the file cannot be written, or no agent answers.";

pub(super) const KUBECTL: &str = "\
Runs kubectl to find Palisade's pods, and in each of them, or in that of the pod that is asked about, the command of the same name;
so it may do what your kubectl may: `pods/exec` in their namespace. To have it as kubectl palisade, link it as kubectl-palisade
somewhere in PATH.

Examples:
  kubectl palisade status
  kubectl palisade flows --follow --verdict denied
  palisade kubectl --node worker-1 conntrack --port 5432

Exit codes: 0 answered; 1 some agents did not answer, or one is not well (status); 2 wrong usage, or none answered.";

pub(super) const COMPLETION: &str = "\
Examples:
  palisade completion bash > /etc/bash_completion.d/palisade
  palisade completion zsh > \"${fpath[1]}/_palisade\"";
