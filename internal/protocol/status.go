package protocol

import (
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// NodeStatus is what a node says about itself in one zone. It informs people; nothing is decided by it.
type NodeStatus struct {
	Network string `json:"network"`
	Zone    string `json:"zone"`
	Node    string `json:"node"`
	// Agent is the agent's version, Started when it started.
	Agent   string    `json:"agent"`
	Started time.Time `json:"started"`
	// Reported is the node's clock when it wrote this.
	Reported time.Time `json:"reported"`
	// Applied is the generation the host now enforces; Seen is the newest verified one. They differ while an apply runs
	// and after a rollback.
	Applied Generation `json:"applied"`
	Seen    Generation `json:"seen"`
	// TimestampAge is the age of the newest verified timestamp in seconds, ManifestExpiresIn the seconds the manifest has
	// left; negative: expired since.
	TimestampAge      int64       `json:"timestampAge"`
	ManifestExpiresIn int64       `json:"manifestExpiresIn"`
	Conditions        []Condition `json:"conditions"`
	Peers             PeerSummary `json:"peers"`
}

// Generation names one generation as one node sees it.
type Generation struct {
	Commit   string         `json:"commit"`
	Epoch    uint64         `json:"epoch"`
	Serial   uint64         `json:"serial"`
	Manifest peermap.Digest `json:"manifest"`
	View     peermap.Digest `json:"view"`
}

// Condition is one aspect of a node's health. Type is one of the Condition constants; Status is "True", "False" or
// "Unknown"; Reason is one CamelCase word for programs and Message a sentence for people.
type Condition struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// Condition types.
const (
	ConditionReady      = "Ready"      // the newest verified generation is enforced
	ConditionStale      = "Stale"      // signatures are older than they may be; the last good state stays
	ConditionDrifted    = "Drifted"    // something else changed the host and repair is not through
	ConditionConflict   = "Conflict"   // foreign state stands where ours should
	ConditionRolledBack = "RolledBack" // the newest generation was applied, failed its probe and was taken back
	ConditionRefused    = "Refused"    // something was served that failed verification
	ConditionConnected  = "Connected"  // the watch is alive
	ConditionTrustAlarm = "TrustAlarm" // what was served contradicts what was signed before
	// ConditionApplyFailed: the host could not be brought to its state. ConditionKeyMismatch: the host's keys are not
	// those in git.
	ConditionApplyFailed = "ApplyFailed"
	ConditionKeyMismatch = "KeyMismatch"
)

// Condition statuses.
const (
	StatusTrue    = "True"
	StatusFalse   = "False"
	StatusUnknown = "Unknown"
)

// PeerSummary counts peers: Alive had a handshake in the last three minutes.
type PeerSummary struct {
	Total         int    `json:"total"`
	Alive         int    `json:"alive"`
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
}

// DecodeStatus reads a status report and checks its bounds and that it speaks of the given node only.
func DecodeStatus(data []byte, network, zone, node string) (NodeStatus, error) {
	var s NodeStatus
	if err := Decode(data, MaxStatusBytes, &s); err != nil {
		return NodeStatus{}, err
	}
	if s.Network != network || s.Zone != zone || s.Node != node {
		return NodeStatus{}, fmt.Errorf("%w: status speaks of another node", ErrMalformed)
	}
	if len(s.Conditions) > MaxConditions || len(s.Agent) > MaxReason || len(s.Applied.Commit) > 64 || len(s.Seen.Commit) > 64 {
		return NodeStatus{}, fmt.Errorf("%w: status over its bounds", ErrMalformed)
	}
	for _, c := range s.Conditions {
		if len(c.Type) > MaxReason || len(c.Reason) > MaxReason || len(c.Message) > MaxMessage {
			return NodeStatus{}, fmt.Errorf("%w: condition over its bounds", ErrMalformed)
		}
		if !slices.Contains([]string{StatusTrue, StatusFalse, StatusUnknown}, c.Status) {
			return NodeStatus{}, fmt.Errorf("%w: condition status %.20q", ErrMalformed, c.Status)
		}
	}
	return s, nil
}

// FleetStatus is one network as its controller sees it.
type FleetStatus struct {
	Network    string    `json:"network"`
	Controller string    `json:"controller"` // version
	Now        time.Time `json:"now"`
	// Head is the branch head last fetched, Accepted the last commit that verified, validated and passed its tests.
	Head     string `json:"head"`
	Accepted string `json:"accepted"`
	// Fetched is when the repository was last reached; FetchError says why the newest attempt failed.
	Fetched    time.Time `json:"fetched"`
	FetchError string    `json:"fetchError,omitempty"`
	// Refused is the commit that cannot be accepted, and why.
	Refused     *Refusal     `json:"refused,omitempty"`
	RootVersion uint64       `json:"rootVersion"`
	Zones       []ZoneStatus `json:"zones"`
	// Leader is the replica that judges and signs; empty where a controller is alone, or nobody leads. Store says why the
	// store cannot be reached: what is published stays, and nothing new is.
	Leader string `json:"leader,omitempty"`
	Store  string `json:"store,omitempty"`
	// Waiting counts the enrolments that wait for a maintainer. Rejected are bindings that are no members now, the first 200.
	Waiting  int               `json:"waiting,omitempty"`
	Rejected []RejectedBinding `json:"rejected,omitempty"`
}

// RejectedBinding is a binding whose node is no member. Reason is one word of identity.Reason, or Faulty: the zone does
// not compile with it, which is a fault of Apex.
type RejectedBinding struct {
	Zone    string         `json:"zone"`
	Node    string         `json:"node"`
	Binding peermap.Digest `json:"binding"`
	Reason  string         `json:"reason"`
	Detail  string         `json:"detail"`
}

// Refusal says why a commit is not published. Stage is one of fetch, verify, load, validate, test, shrink, compile, sign. Final
// says that the commit will never do; otherwise the controller tries it again.
type Refusal struct {
	Commit string    `json:"commit"`
	Stage  string    `json:"stage"`
	Reason string    `json:"reason"`
	Final  bool      `json:"final,omitempty"`
	Since  time.Time `json:"since"`
}

// ZoneStatus is one zone of a FleetStatus.
type ZoneStatus struct {
	Zone string `json:"zone"`
	// Current is what agents are served; nil before the first publication.
	Current   *Published `json:"current,omitempty"`
	Suspended bool       `json:"suspended"`
	// Pending waits for signatures; Missing says whose.
	Pending *PendingStatus `json:"pending,omitempty"`
	// Problem says why the newest content or timestamp could not be signed or stored.
	Problem string       `json:"problem,omitempty"`
	Nodes   []FleetEntry `json:"nodes"`
}

// Published describes a served generation.
type Published struct {
	Commit    string         `json:"commit"`
	Epoch     uint64         `json:"epoch"`
	Serial    uint64         `json:"serial"`
	Manifest  peermap.Digest `json:"manifest"`
	Views     uint64         `json:"views"`
	Enrolled  uint64         `json:"enrolled,omitempty"` // of the Views, those of enrolled nodes
	Published time.Time      `json:"published"`
	Expires   time.Time      `json:"expires"`
	// TimestampExpires is the end of the newest timestamp.
	TimestampExpires time.Time `json:"timestampExpires"`
	// Envelope is the signed manifest: what `apex map verify` compares its own compile with.
	Envelope []byte `json:"envelope,omitempty"`
}

// PendingStatus describes a generation that too few have signed.
type PendingStatus struct {
	Commit    string         `json:"commit"`
	Serial    uint64         `json:"serial"`
	Manifest  peermap.Digest `json:"manifest"`
	Since     time.Time      `json:"since"`
	Have      int            `json:"have"`
	Threshold int            `json:"threshold"`
	Missing   string         `json:"missing"`
}

// FleetEntry is one node of a ZoneStatus. Behind says in words why the node does not enforce the current generation; it
// is empty when it does.
type FleetEntry struct {
	Node      string `json:"node"`
	Connected bool   `json:"connected"`
	// LastSeen is the controller's clock at the newest proven request; zero: never since the controller keeps records.
	LastSeen time.Time   `json:"lastSeen"`
	Behind   string      `json:"behind,omitempty"`
	Status   *NodeStatus `json:"status,omitempty"`
}
