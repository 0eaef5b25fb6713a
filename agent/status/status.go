// Package status is what an agent says of itself: the types of its local status document, the table of conditions, and
// the client and server of the unix socket that carries it.
//
// The document is a copy taken at one instant. Whatever it shows carries the time it was true, so that a reader can
// tell a live connection from a dead one that nobody noticed. Nothing here can change the agent: what can, is in package
// control, on the same socket.
package status

import "time"

// Status is the document of one agent process. Times are UTC.
type Status struct {
	Version string    `json:"version"`
	Network string    `json:"network"`
	Node    string    `json:"node"`
	Started time.Time `json:"started"`
	// Taken is when this copy was made; every age below counts back from it.
	Taken time.Time `json:"taken"`
	// Zones holds one entry per zone the host is in, in the order of the configuration.
	Zones []Zone `json:"zones"`
}

// Zone is the state of the host in one zone.
type Zone struct {
	Zone      string `json:"zone"`
	Interface string `json:"interface"`
	// Verified is the newest generation whose signatures held; Applied is the one that the host was last confirmed in.
	// They differ while an apply is under way and after a rollback.
	Verified *Generation `json:"verified,omitempty"`
	Applied  *Generation `json:"applied,omitempty"`
	// Signatures are the documents the trust in Verified rests on: root, timestamp, manifest.
	Signatures []Signature `json:"signatures"`
	Controller Controller  `json:"controller"`
	Conditions []Condition `json:"conditions"`
	// Enrolment is absent for a node whose keys stand in git.
	Enrolment *Enrolment `json:"enrolment,omitempty"`
	Peers     []Peer     `json:"peers"`
	Counters  Counters   `json:"counters"`
	// Quarantined are view digests that were rolled back and are not tried again.
	Quarantined []string `json:"quarantined,omitempty"`
}

// Enrolment is how the host is, or becomes, a member by an identity.
type Enrolment struct {
	// Stage is one of those of package control.
	Stage string `json:"stage"`
	// Identity is who the host is, as "issuer: username (subject)"; empty without a binding, and so are the next two.
	Identity string `json:"identity,omitempty"`
	// Rule is the member rule, as name (file:line).
	Rule    string    `json:"rule,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	// NextAttempt is when the agent will ask again; absent if only a person can.
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	// Waiting is the ID of a request that waits for a maintainer.
	Waiting  string `json:"waiting,omitempty"`
	Attempts uint64 `json:"attempts"`
	Failures uint64 `json:"failures"`
}

// Generation names a compiled state of a zone.
type Generation struct {
	Epoch    uint64 `json:"epoch"`
	Serial   uint64 `json:"serial"`
	Commit   string `json:"commit"`
	Manifest string `json:"manifest"` // digest, hex
	View     string `json:"view"`     // digest of this node's view, hex
	// Since is when it got this standing (was verified, was confirmed).
	Since time.Time `json:"since"`
}

// Signature is the age of one signed document.
type Signature struct {
	Name    string `json:"name"` // "root", "timestamp" or "manifest"
	Version string `json:"version,omitempty"`
	// Seen is when the agent last verified it; AgeSeconds counts from there.
	Seen       time.Time `json:"seen"`
	AgeSeconds int64     `json:"ageSeconds"`
	// Expires is absent for a document that does not expire.
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired"`
}

// Controller is the connection to the controller.
type Controller struct {
	URL       string `json:"url,omitempty"`
	Connected bool   `json:"connected"`
	// Since is when Connected last changed.
	Since time.Time `json:"since,omitzero"`
	// LastMessage is when the last byte arrived: what "connected" is worth. LastMessageAgeSeconds counts from it, -1 if
	// there never was one.
	LastMessage           time.Time `json:"lastMessage,omitzero"`
	LastMessageAgeSeconds int64     `json:"lastMessageAgeSeconds"`
}

// Peer is one peer as the WireGuard device reports it.
type Peer struct {
	Name      string   `json:"name"`
	PublicKey string   `json:"publicKey"` // standard base64
	Addresses []string `json:"addresses,omitempty"`
	Endpoint  string   `json:"endpoint,omitempty"`
	// LastHandshake is absent if there never was one.
	LastHandshake time.Time `json:"lastHandshake,omitzero"`
	ReceivedBytes int64     `json:"receivedBytes"`
	SentBytes     int64     `json:"sentBytes"`
}

// Counters count since the process began.
type Counters struct {
	Applied     uint64 `json:"applied"`
	RolledBack  uint64 `json:"rolledBack"`
	Drift       uint64 `json:"drift"`       // times that somebody else's change was found
	DriftFixed  uint64 `json:"driftFixed"`  // objects put back
	Refused     uint64 `json:"refused"`     // artefacts that failed verification
	FullFetches uint64 `json:"fullFetches"` // fetches that could not use an update frame
	Unchanged   uint64 `json:"unchanged"`   // generations that changed nothing for this node
	// DriftBySubsystem breaks DriftFixed down by reconciler subsystem.
	DriftBySubsystem map[string]uint64 `json:"driftBySubsystem,omitempty"`
}
