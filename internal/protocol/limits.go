package protocol

import "time"

// Every cap of the HTTP protocol stands here; caps on artefacts stand in spec/peermap. A reader refuses what is larger
// before it reads, decodes or allocates it.
const (
	// MaxHeaderBytes bounds the header of one request.
	MaxHeaderBytes = 16 << 10
	// MaxProofBytes bounds one Apex-Proof token.
	MaxProofBytes = 2 << 10
	// MaxURLBytes bounds the URL a proof can name.
	MaxURLBytes = 1 << 10
	// MaxStatusBytes bounds one NodeStatus on the wire.
	MaxStatusBytes = 64 << 10
	// MaxApplyBytes, MaxCosignBytes and MaxWebhookBytes bound the other request bodies.
	MaxApplyBytes  = 24 << 10
	MaxCosignBytes = 16 << 10
	// MaxCosignature bounds the signature in it, which may be an ID token (signer.MaxIDToken).
	MaxCosignature  = 8 << 10
	MaxWebhookBytes = 1 << 20
	// MaxProblemBytes bounds an error body, MaxFleetBytes a FleetStatus, MaxPendingBytes a list of pending generations.
	MaxProblemBytes = 16 << 10
	MaxFleetBytes   = 64 << 20
	MaxPendingBytes = 4 << 20
	// MaxViewResponseBytes bounds the answer of the view resource: a view in base64 with its proof.
	MaxViewResponseBytes = 128 << 10
	// MaxManifestEventBytes and MaxUpdateBytes bound one manifest and generation event of the watch, MaxArtefactEventBytes one artefact event (the largest class
	// in base64 with its frame), MaxUpdateArtefacts and MaxUpdateArtefactBytes what may precede one generation event.
	MaxManifestEventBytes  = 96 << 10
	MaxUpdateBytes         = 192 << 10
	MaxArtefactEventBytes  = 6 << 20
	MaxUpdateArtefacts     = 4096
	MaxUpdateArtefactBytes = 32 << 20
	// MaxTokenBytes bounds an ID token, MaxEnrolBytes a request with one, MaxEvidenceBytes an evidence record with its
	// chain, MaxBindingBytes a signed binding, MaxBindingsAsked how many records a witness asks for at once.
	MaxTokenBytes    = 16 << 10
	MaxEnrolBytes    = 32 << 10
	MaxEvidenceBytes = 256 << 10
	MaxBindingBytes  = 64 << 10
	MaxBindingsAsked = 200
	// MaxBindingsQueryBytes bounds a witness's question for that many records.
	MaxBindingsQueryBytes = 16 << 10
	MaxRecordsBytes       = 64 << 20
	// MaxEnrolRoutes and MaxEnrolAddresses bound the lists of an enrolment request, MaxRotateBytes a rotation.
	MaxEnrolRoutes    = 256
	MaxEnrolAddresses = 4
	MaxRotateBytes    = 8 << 10
	// MaxEnrolmentsBytes bounds an EnrolmentList, MaxEnrolInfoBytes an EnrolmentInfo.
	MaxEnrolmentsBytes = 64 << 20
	MaxEnrolInfoBytes  = 64 << 10
	// MaxConditions, MaxReason and MaxMessage bound a status; strings are in bytes.
	MaxConditions = 32
	MaxReason     = 64
	MaxMessage    = 1024
)

const (
	// ProofSkew is how far a proof's iat may lie from the server's clock, either way.
	ProofSkew = 60 * time.Second
	// RequestSkew is the same for SSHSIG-signed requests, which a person may make on a laptop.
	RequestSkew = 5 * time.Minute
	// HeartbeatInterval is how often the watch sends a comment when it has nothing to say. A client that has read
	// nothing for WatchTimeout reconnects.
	HeartbeatInterval = 20 * time.Second
	WatchTimeout      = 50 * time.Second
	// StatusInterval is the least time between two status reports of one node.
	StatusInterval = 5 * time.Second
	// MaxPendingWait is the longest a witness may wait for a pending generation in one request.
	MaxPendingWait = 30 * time.Second
)
