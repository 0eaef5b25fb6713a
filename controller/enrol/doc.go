// Package enrol lets hosts join a network by an OIDC identity: it verifies what a host shows, asks the rules at the
// published commit, and signs a binding.
//
// It promises that a binding is signed only for a host that proved both keys, with a token that was used for nothing else,
// for what a rule gives; that no address and no node name is handed out twice, whatever crashes and however many
// controllers share the store; that what was acknowledged is in the store; and that nobody who is admitted nowhere
// learns which zones, nodes or rules there are. It compiles and publishes nothing: Snapshot is an input of the compile.
//
//	                 same keys, same token: the same answer
//	               ┌──────────────────────────────────────────────┐
//	request ─▶ limits, MAC ─▶ token ─▶ commitment ─▶ rule ─▶ claims ─▶ signed ─▶ stored
//	               │ 429       │ 401, 503   │ 401       │ 403    │ 409       ▲
//	               ▼           ▼            ▼           ▼        ▼           │ a maintainer's word, or git's
//	            refused; nothing changed                      waiting ───────┘
//
// A binding's life:
//
//	waiting ──approved──▶ bound ──renewed, rotated──▶ bound
//	   │ denied, week over   │ left, ephemeral and gone, expired for long
//	   ▼                     ▼
//	 nothing               nothing (its addresses and name are free again)
//
// What is stored, by bucket; keys are dot-separated:
//
//	bindings    <network>.<zone>.<node>              protocol.BindingRecord
//	addresses   <network>.<zone>.<address in hex>    who claims it, and since when
//	tokens      <network>.<digest>                   what a token was used for; forgotten when no token can be that old
//	waiting     <network>.<zone>.<id>                a request that waits, with what its binding will rest on
//	presence    <network>.<zone>.<node>.<replica>    an ephemeral node that watches this replica
//
// Writes go from claims to the binding: the token first, then addresses, then the binding under the node's name, which
// decides. What a crash leaves behind is a claim without a binding; whoever meets one that is older than any request may
// take it over.
package enrol
