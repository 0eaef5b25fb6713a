package binding

import "github.com/apex-network/apex/spec/peermap"

// Every cap on bindings stands here. A reader refuses what is larger before it decodes it.
const (
	// MaxBytes bounds a payload, MaxEnvelopeBytes a payload with its signature.
	MaxBytes         = 64 << 10
	MaxEnvelopeBytes = 96 << 10
	// MaxSubject, MaxName and MaxValue bound text in bytes: a `sub` (OpenID Connect Core 1.0, section 2), the name of a user or
	// group, a claim's value. MaxURL bounds an issuer, MaxFile the path of a rule's file.
	MaxSubject = 255
	MaxName    = 256
	MaxValue   = 1024
	MaxURL     = 1024
	MaxFile    = 1024
	// MaxGroups, MaxClaims, MaxValues, MaxLabels and MaxRoutes bound lists.
	MaxGroups = 512
	MaxClaims = 32
	MaxValues = 64
	MaxLabels = 64
	MaxRoutes = 256
	// MaxListBytes bounds the list of a zone's bindings: a line for every node that a zone can hold.
	MaxListBytes = peermap.MaxZonePeers * (2*len(peermap.Digest{}) + len("  \n") + peermap.MaxName)
)
