package signer

import "time"

// Caps on what this package reads. The caps of whole envelopes stand in peermap (MaxRootBytes, MaxManifestBytes,
// MaxTimestampBytes), because server and agent share them.
const (
	// MaxSignatures is the most signatures in one envelope. MaxThreshold is half of it, so that a root that replaces all
	// of its keys still fits the signatures of both versions.
	MaxSignatures = 64
	MaxThreshold  = MaxSignatures / 2
	// MaxPayloadType is the longest payload type in bytes.
	MaxPayloadType = 128
	// MaxSignatureBytes bounds one signature, armoured or not.
	MaxSignatureBytes = 16 << 10
	// MaxKeyBytes bounds the text of one public key; an OpenPGP key with certifications is the longest.
	MaxKeyBytes = 64 << 10
	// MaxPrivateKeyBytes bounds the text of one private key file.
	MaxPrivateKeyBytes = 4 << 10
	// MaxRootKeys and MaxRootRules bound the lists of a trust root; MaxPattern is the longest path glob or path in bytes.
	MaxRootKeys  = 1_024
	MaxRootRules = 1_024
	MaxPattern   = 1_024
	// MaxIdentities bounds the applier and the witness identities of a trust root, MaxIssuerKeys the pinned keys of one;
	// MaxIDToken is the longest ID token that signs a manifest, of which two have to fit into its envelope.
	MaxIdentities = 64
	MaxIssuerKeys = 16
	MaxIDToken    = 8 << 10
	// MaxStateBytes bounds a persisted State: thousands of trust root versions.
	MaxStateBytes = 16 << 20
	// MinRSABits and MaxRSABits are the RSA sizes that count: smaller ones can be broken, larger ones only cost time.
	MinRSABits = 2_048
	MaxRSABits = 8_192
)

// MaxClockSkew is how far in the future a signed instant may lie, so that clocks need not agree to the second.
const MaxClockSkew = 2 * time.Minute

// MaxIssuerSkew is the same for the clocks of OpenID providers, which this package only compares with instants in manifests.
const MaxIssuerSkew = 10 * time.Minute
