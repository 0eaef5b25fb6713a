// Package signer decides what is trusted. Bytes and an instant go in, a trusted value or an explained refusal comes out:
// the package holds no disk, network or clock, so the same bytes at the same instant always get the same answer.
//
// Its parts, from the bottom up:
//
//	Envelope      DSSE: a typed payload and its signatures, verified over the raw bytes before anything is parsed
//	PublicKey     an Ed25519, SSH or OpenPGP key; its ID is the key itself, whatever it is wrapped in or called
//	Root          the trust root: which keys hold which role, and how versions of it follow each other
//	State         what one agent trusts about one zone; each With… method is one step of the verification
//	SSHSign, …    signatures people make: over commits, trust roots and apply requests
//
// The rules every part keeps: a size cap before reading, the signature before the parser, one spelling for each value
// (input that does not encode back to itself is refused), each key counted once, and on any error the old state stays.
package signer
