package signer

import (
	"errors"

	"github.com/apex-network/apex/spec/peermap"
)

// The reasons for a refusal. Every error of this package wraps one of them (errors.Is); its text says what was refused,
// what was expected and what to do. ErrRollback and ErrFork are alarms: an honest controller never causes them.
var (
	// ErrTooLarge: the bytes exceed their cap; they were not read further.
	ErrTooLarge = peermap.ErrTooLarge
	// ErrFormat: the bytes are not the one canonical form of their type.
	ErrFormat = errors.New("malformed")
	// ErrType: a well-formed envelope of another payload type than the one asked for.
	ErrType = errors.New("wrong payload type")
	// ErrWeakKey: the key's kind, size or point is not on the allow-list.
	ErrWeakKey = errors.New("key not allowed")
	// ErrUnknownKey: a signature by a key that the trust root does not list for this use.
	ErrUnknownKey = errors.New("unknown key")
	// ErrSignature: a signature does not fit its bytes, key, namespace or algorithm.
	ErrSignature = errors.New("bad signature")
	// ErrThreshold: too few distinct keys of the role have signed.
	ErrThreshold = errors.New("not enough signatures")
	// ErrInvalidRoot: the trust root contradicts itself.
	ErrInvalidRoot = errors.New("invalid trust root")
	// ErrPin: the first trust root is not the one that was pinned.
	ErrPin = errors.New("trust root differs from the pinned one")
	// ErrRootSkip: the trust root is not the direct successor of the one held.
	ErrRootSkip = errors.New("trust root version skipped")
	// ErrNoRoot: a step that needs a trust root came before there was one.
	ErrNoRoot = errors.New("no trust root yet")
	// ErrNewerRoot: the artefact was made under a newer trust root; fetch the next root version and try again.
	ErrNewerRoot = errors.New("a newer trust root is needed")
	// ErrNoTimestamp: a manifest came before a timestamp named it.
	ErrNoTimestamp = errors.New("no timestamp names this manifest")
	// ErrNoManifest: a view came before a manifest.
	ErrNoManifest = errors.New("no manifest yet")
	// ErrRollback: older than what was already accepted.
	ErrRollback = errors.New("rollback refused")
	// ErrOlder: the same generation as the one held, by an older timestamp. Replicas with unequal clocks cause it; the
	// newer timestamp stays.
	ErrOlder = errors.New("older timestamp than the one held")
	// ErrFork: two different contents under one number, or a manifest that does not continue the one before.
	ErrFork = errors.New("fork refused")
	// ErrMismatch: artefacts of different generations do not fit together.
	ErrMismatch = errors.New("artefacts do not belong together")
	// ErrExpired: past its expiry (a freeze attack ends here).
	ErrExpired = errors.New("expired")
	// ErrFuture: issued later than now by more than MaxClockSkew.
	ErrFuture = errors.New("issued in the future")
	// ErrValidity: it claims to live longer than the trust root allows.
	ErrValidity = errors.New("lives longer than the trust root allows")
	// ErrWrongNetwork, ErrWrongZone and ErrWrongNode: signed, but for somebody else.
	ErrWrongNetwork = errors.New("wrong network")
	ErrWrongZone    = errors.New("wrong zone")
	ErrWrongNode    = errors.New("wrong node")
	// ErrProof: the view is not a leaf of the signed manifest at that place.
	ErrProof = peermap.ErrProof
)
