// Package protocol is what a controller and those who talk to it say over HTTP: resource paths, request proofs, the
// events of the watch, status, apply and co-sign messages, errors, and the cap on each of them.
//
// It promises that both sides read the same bytes the same way. JSON is decoded strictly: what Encode would not have
// written (unknown, duplicate or case-folded keys, null, other spellings of a number, trailing bytes) is refused. It
// decides nothing about trust: envelopes pass through as bytes and are verified by package signer. It holds no clock,
// disk or socket.
//
// The resources, below /v1/networks/{network}:
//
//	GET  zones/{zone}/roots/{version}                    signed trust root         public, immutable
//	GET  zones/{zone}/timestamp                          signed timestamp          proof, ETag
//	GET  zones/{zone}/manifests/{digest}                 signed manifest           proof, immutable
//	GET  zones/{zone}/nodes/{node}/view[?manifest=]      ViewResponse              proof of that node
//	GET  zones/{zone}/nodes/{node}/artefacts/{digest}    class or block bytes      proof of that node, immutable
//	GET  zones/{zone}/nodes/{node}/watch[?manifest=&have=]  Server-Sent Events     proof of that node
//	POST zones/{zone}/nodes/{node}/status                NodeStatus                proof of that node
//	POST apply                                           SignedRequest of an Apply         applier's signature
//	GET  status                                          FleetStatus               applier's or maintainer's signature
//	GET  pending[?wait=seconds]                          PendingList               proof of a witness
//	POST cosign                                          Cosign                    proof of a witness
//	POST webhook                                         anything                  HMAC
package protocol
