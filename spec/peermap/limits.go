package peermap

// Every cap on artefacts stands here. A reader refuses what is larger before it reads, decodes or allocates it.
const (
	// MaxBlockPeers is the most peer records in one block; a fuller trie leaf splits.
	MaxBlockPeers = 256
	// MaxZonePeers is the most nodes in one zone, the limit of wireguard-go less a reserve.
	MaxZonePeers = 60_000
	// MaxBlockBytes, MaxClassBytes and MaxViewBytes bound the encoded artefacts.
	MaxBlockBytes = 256 << 10
	MaxClassBytes = 4 << 20
	MaxViewBytes  = 64 << 10
	// MaxManifestBytes and MaxTimestampBytes bound whole envelopes, signatures included.
	MaxManifestBytes  = 32 << 10
	MaxTimestampBytes = 8 << 10
	// MaxRootBytes bounds one signed trust root envelope.
	MaxRootBytes = 512 << 10
	// MaxProofHashes bounds a Merkle proof: 2^20 views.
	MaxProofHashes = 20
	// MaxGroups, MaxRules and MaxVias bound a class.
	MaxGroups = 16_384
	MaxRules  = 16_384
	MaxVias   = 8_192
	// MaxPeerAddresses, MaxPeerEndpoints and MaxName bound a peer record; MaxName is in bytes (a DNS-1123 label).
	MaxPeerAddresses = 16
	MaxPeerEndpoints = 16
	MaxName          = 63
	// MaxRanges bounds the ranges of a zone, MaxRuleID a rule's ID in bytes ("<policy>/<index>").
	MaxRanges = 64
	MaxRuleID = 80
	// MinMTU and MaxMTU bound an interface's MTU in bytes; IPv6 needs 1280.
	MinMTU = 1280
	MaxMTU = 9000
	// MaxRulePorts bounds the port list of one rule; MaxSetPrefixes the prefixes of one set.
	MaxRulePorts   = 256
	MaxSetPrefixes = 4_096
)
