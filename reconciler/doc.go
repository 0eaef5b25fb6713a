// Package reconciler makes a host so: given the State a caller has verified, it brings one WireGuard interface with its
// peers, addresses, routes, firewall and forwarding to that state, and nothing else on the host.
//
// Promises:
//   - It touches only what changed and owns only what is ours: the interface that carries our alias, routes with our
//     protocol number, the nftables table of that interface. A clash with a foreign object is a Conflict, never a fight.
//   - It adds before it removes, and the firewall is in place before the interface goes up. The firewall table is
//     replaced in one transaction; there is no instant without rules.
//   - Every intended change is a commit-confirm: checkpoint, apply, re-read, probe, then confirm or roll back. A crash at
//     any point is rolled back by Recover.
//   - The private key is never written to disk, logged or reported.
//
// The package knows neither HTTP nor signatures nor files of keys: everything comes in as values.
package reconciler
