// Package agent is the node daemon: it follows the signed generations of the zones its host is in and makes the host so.
//
//	controller ──▶ fetch ──▶ follow (verify, store) ──▶ desired ──▶ reconciler.Engine ──▶ host
//	                              │     ▲                              │
//	                              ▼     │ boot                         ▼
//	                            cache ──┘                           status ──▶ unix socket, controller, metrics
//
// Beside this stream, package enrol makes a host a member by an identity where its keys do not stand in git; package keys
// holds the keys, and those that follow them.
//
// Promises:
//   - The host is brought to its last good state before the first byte goes to the network, and the interface is never
//     deleted to start over.
//   - Fail static: whatever cannot be reached, has expired or fails verification changes nothing on the host. A
//     condition says what happened, in words.
//   - What has been seen (epoch, serial) is on disk before the host changes, so that a restart cannot be talked back.
//   - A change is confirmed or undone. A generation whose probe failed is quarantined until another one arrives; one that the
//     host refused is tried again, for the host's errors pass.
//   - What runs out (notAfter) runs out on time, also without a controller, a cache, or either.
//   - A change of keys loses no interface, and never both sets of keys.
//
// One process serves all zones of a host; the zones share nothing but the process. Package agent and what it imports
// know no git, no YAML loader and no server.
package agent
