// Package lab is the test internet: hosts, LANs and NAT routers made of network namespaces, veth pairs, bridges and
// nftables, with real programs running inside them. Integration tests and `apex demo` use it.
//
//	            Lab
//	             │  hub namespace: one bridge per Switch, no addresses, no forwarding
//	   ┌─────────┴──────────────┐
//	"internet"                "lan"
//	  │    │                   │  │
//	veth  veth               veth veth            one veth pair per Attach; the far end is a port of the bridge
//	  │    │                   │  │
//	 eth0  eth0 ── Router ── eth1 eth0            each Host: own network, mount and UTS namespace,
//	 server       (nftables NAT)  laptop          own /run, own folder, one OS thread that starts its processes
//
// # Promise
//
// A Lab touches nothing outside itself: every namespace is anonymous and held by file descriptors, every link lives in
// a lab namespace, and nothing is done by running ip, nft or a shell. Labs do not know of each other, so any number run
// side by side. Close kills every process, takes everything down and then asks the kernel whether anything is left: an
// error of Close means a leak. If the program is killed before it can Close, its direct children die with it
// (Pdeathsig); under Isolate everything dies with it, whatever happens.
//
// # Privileges
//
// Namespaces need CAP_SYS_ADMIN. Isolate gets it for anyone where the kernel allows user namespaces: it runs the program
// again as root of namespaces of its own. Privileges says beforehand, and precisely, what is missing.
//
// The package is for Linux; elsewhere it is empty.
package lab
