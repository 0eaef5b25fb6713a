package reconciler

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrInvalidState: the State contradicts itself; the host was not touched.
	ErrInvalidState = errors.New("invalid state")
	// ErrForeign: an interface or table of our name exists and is not ours; nothing was touched.
	ErrForeign = errors.New("name taken by a foreign object")
	// ErrRolledBack: the state was applied or half applied and then taken back; the Report says why.
	ErrRolledBack = errors.New("rolled back")
	// ErrRollbackFailed: taking back failed as well; the checkpoint stays, call Recover again.
	ErrRollbackFailed = errors.New("roll back failed")
	// ErrUnfinished: an unfinished checkpoint stands in the state folder; call Recover first.
	ErrUnfinished = errors.New("unfinished change on disk")
	// ErrNoKey: a stored state needs a private key that Options.PrivateKey does not have.
	ErrNoKey = errors.New("private key not available")
	// ErrUnsupported: this platform or host lacks what a backend needs.
	ErrUnsupported = errors.New("not supported here")
	// ErrPermission: the process lacks a privilege, usually CAP_NET_ADMIN.
	ErrPermission = errors.New("missing privilege")
)

// Subsystem names a part of the host.
type Subsystem string

// The subsystems.
const (
	SubsystemLink      Subsystem = "link"
	SubsystemAddress   Subsystem = "address"
	SubsystemWireGuard Subsystem = "wireguard"
	SubsystemRoute     Subsystem = "route"
	SubsystemFirewall  Subsystem = "firewall"
	SubsystemSysctl    Subsystem = "sysctl"
)

// Action is what was done to an object.
type Action string

// The actions.
const (
	Add    Action = "add"
	Update Action = "update"
	Remove Action = "remove"
)

// Change is one thing done to the host, never with secrets in it. Object is readable: a prefix, a peer's name or key.
type Change struct {
	Subsystem Subsystem
	Action    Action
	Object    string
	// Count is above 1 where one change stands for several objects, such as a batch of peers.
	Count int
}

func (c Change) String() string {
	if c.Count > 1 {
		return fmt.Sprintf("%s %s %s (%d)", c.Subsystem, c.Action, c.Object, c.Count)
	}
	return fmt.Sprintf("%s %s %s", c.Subsystem, c.Action, c.Object)
}

// Conflict is a foreign object in the way of ours. We leave it, and our object is not made until it is gone.
type Conflict struct {
	Subsystem Subsystem
	Object    string // what we wanted
	Reason    string // what stands in the way and what the user can do
}

func (c Conflict) String() string { return fmt.Sprintf("%s %s: %s", c.Subsystem, c.Object, c.Reason) }

// Report says what a call did. Changes are in the order they were made; at most MaxReportChanges are listed, Total
// counts all.
type Report struct {
	ID        string // of the State the call was about
	Changes   []Change
	Total     int
	Conflicts []Conflict
	// Drift: the changes repair what somebody else did, nothing new was intended.
	Drift bool
	// Deferred: drift was seen, but the rate limit holds the repair back.
	Deferred bool
	// RolledBack: the state was taken back for Reason. Quarantine: the state itself is to blame, for its probe failed, so do
	// not apply this ID again; false when the host refused it (a later attempt may meet another host) and when the process
	// was merely stopped half way.
	RolledBack bool
	Quarantine bool
	Reason     string
	Duration   time.Duration
}

// MaxReportChanges bounds Report.Changes.
const MaxReportChanges = 1000

// PeerStatus is what the device knows of a peer.
type PeerStatus struct {
	PublicKey     Key
	Endpoint      netip.AddrPort
	LastHandshake time.Time // zero: never
	RxBytes       int64
	TxBytes       int64
}

// RuleCounter is how much a firewall rule has let through since its table was last replaced. The rules that drop have
// the IDs "drop input", "drop output" and "drop forward".
type RuleCounter struct {
	ID      string
	Packets uint64
	Bytes   uint64
}
