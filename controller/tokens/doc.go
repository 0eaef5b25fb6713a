// Package tokens verifies ID tokens of OpenID providers (OpenID Connect Core 1.0) as they come from strangers.
//
// It promises that a token counts only if a key that its issuer publishes now signed it, with an asymmetric algorithm, for an
// audience that was asked for, and in its time by the controller's clock; that whatever is wrong is said by naming the claim
// and never by showing the token; and that a provider that is dead, slow, huge or lying costs its own users a clear error
// and nobody else anything.
//
// What is fetched, and when:
//
//	            first token                    older than KeysFresh, or a key ID that is not among them
//	┌─────────┐ discovery, keys ┌────────────┐ discovery when old, keys  ┌────────────┐
//	│ unknown │────────────────▶│ keys known │──────────────────────────▶│ keys known │
//	└─────────┘                 └────────────┘                           └────────────┘
//	   │  ▲                         │  ▲ fetch fails: the old keys go on until KeysKept
//	   └──┘ Unavailable, asked      └──┘
//	        again after 1 s … 1 min
//
// One fetch at a time per issuer; all who wait share it. Strangers can make up key IDs, so these cause at most a few fetches
// in a while. Before anything is fetched, the token has passed every check that needs no key.
package tokens
