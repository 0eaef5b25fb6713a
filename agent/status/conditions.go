package status

import "time"

// Condition is one thing that is or is not the case, in the shape operators know from Kubernetes.
type Condition struct {
	Type   string `json:"type"`
	Status bool   `json:"status"`
	// Reason is one CamelCase word for machines; Message says for people what happened and what to do next.
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"` // when Status or Reason last changed
}

// The condition types. Definitions explains each.
const (
	Ready              = "Ready"
	Unreachable        = "Unreachable"
	Stale              = "Stale"
	TrustAlarm         = "TrustAlarm"
	Refused            = "Refused"
	NotMember          = "NotMember"
	KeyMismatch        = "KeyMismatch"
	ApplyFailed        = "ApplyFailed"
	RolledBack         = "RolledBack"
	Conflict           = "Conflict"
	Drifted            = "Drifted"
	EndpointUnresolved = "EndpointUnresolved"
	CacheDamaged       = "CacheDamaged"
	RootExpiring       = "RootExpiring"
	Suspended          = "Suspended"
	EnrolmentNeeded    = "EnrolmentNeeded"
	AwaitingApproval   = "AwaitingApproval"
	EnrolmentFailing   = "EnrolmentFailing"
	EnrolmentExpiring  = "EnrolmentExpiring"
	EnrolmentExpired   = "EnrolmentExpired"
)

// Definition is one row of the table of conditions, from which the documentation is made.
type Definition struct {
	Type string
	// Good is the status of a healthy host.
	Good bool
	// Means says when the condition is true; Do says what a person does about the status that is not Good.
	Means, Do string
}

// Definitions is the table of every condition an agent reports, in the order it reports them.
func Definitions() []Definition {
	return []Definition{
		{Ready, true, "The host carries the newest verified generation.",
			"Read the other conditions: one of them says why not."},
		{Unreachable, false, "No controller answers. The last good state stays in force.",
			"Check the controller URLs, the network between, and the controller itself. Peers keep talking meanwhile."},
		{Stale, false, "The timestamp or the manifest has expired: nobody vouches any more that this generation is the current one. The last good state stays in force.",
			"Restore the controller, or its timestamp key; if it serves old timestamps on purpose, treat it as an attack."},
		{TrustAlarm, false, "Somebody served what an honest controller cannot: an older generation, another manifest under the same serial, a skipped trust root. It was refused; nothing on the host changed.",
			"Find out who holds the controller's keys. After restoring a controller from an old backup, raise the trust root's epoch."},
		{Refused, false, "An artefact failed verification and was refused; nothing on the host changed.",
			"Read the message: it names the artefact and the check. A proxy between agent and controller is a common cause."},
		{NotMember, false, "The controller does not know this node in this zone, or does not accept its identity key.",
			"Compare the Node document in git with `apex node init` on this host: name, zone and identityKey must match. A node without one joins by an identity: `apex join`."},
		{KeyMismatch, false, "The signed view carries another WireGuard public key than this host's key file holds; the view was not applied.",
			"Put the host's public key into the Node document, or restore the key file."},
		{ApplyFailed, false, "The host refused a change, which was rolled back. It is tried again after a pause that grows from 2 seconds to 5 minutes.",
			"Read the message: it names the object and the system's own error, how often it was tried, and when it is tried next."},
		{RolledBack, false, "The newest generation was applied, failed its probe, and was undone. It is quarantined: it is not tried again until another one arrives.",
			"Look at what the commit changes for this host (`apex plan`), and merge a correction."},
		{Conflict, false, "An address, route or rule that is not ours stands where ours should be. It was left alone.",
			"Remove the foreign object named in the message, or move the zone's range."},
		{Drifted, false, "Somebody changed what is ours on the host and it is not repaired yet.",
			"It is repaired by itself. If it returns, find the program that fights the agent."},
		{EndpointUnresolved, false, "The name of at least one peer's endpoint cannot be resolved.",
			"Check DNS on this host. A peer that reaches us first still works."},
		{CacheDamaged, false, "The state folder held damaged or altered files at start. They were put aside and fetched again.",
			"Check the disk. If nobody changed the files on purpose, treat the host as tampered with."},
		{RootExpiring, false, "The trust root has expired or will within 30 days. It still counts.",
			"Sign the next trust root: `apex trust rotate`."},
		{Suspended, false, "The zone is suspended in git: its published generation is frozen on purpose.",
			"Remove `suspend: true` from the Zone document to let changes through again."},
		{EnrolmentNeeded, false, "The host is to be a member by an identity, and only a person can go on: nobody has joined it, its sign-in has ended, the controller lost its binding, or somebody took it out.",
			"Run `apex join` on the host."},
		{AwaitingApproval, false, "The controller has the host's request; the rule wants a maintainer to approve it.",
			"`apex enrol list`, then `apex enrol approve`."},
		{EnrolmentFailing, false, "The last attempt to get or renew a binding failed; it is tried again, more and more slowly. The last good state stays in force.",
			"Read the message: it has the controller's or the provider's own words."},
		{EnrolmentExpiring, false, "The binding is in the last third of its life, or its last week, and the agent cannot renew it by itself, or fails to.",
			"Run `apex join` on the host, or mend what EnrolmentFailing names, before it runs out: then peers drop the host."},
		{EnrolmentExpired, false, "The binding has run out. Peers have dropped the host by themselves; what stands on the host stays.",
			"Run `apex join` on the host, or mend what EnrolmentFailing names."},
	}
}

// Conditions is the set of all conditions of one zone. The zero value is not ready; use NewConditions.
// It is a value holder without locks: its owner serialises.
type Conditions struct {
	list []Condition // in the order of Definitions
}

// NewConditions gives every condition its first status: Ready is false with reason Starting, all others false.
func NewConditions(now time.Time) *Conditions {
	c := &Conditions{}
	for _, d := range Definitions() {
		c.list = append(c.list, Condition{Type: d.Type, Since: now})
	}
	c.Set(Ready, false, "Starting", "The agent has not applied a generation yet.", now)
	return c
}

// Set gives the condition a status and says whether its status, reason or message changed. Since moves only when status
// or reason does. A type that is not in the table is a programming error and panics.
func (c *Conditions) Set(kind string, status bool, reason, message string, now time.Time) bool {
	for i := range c.list {
		if c.list[i].Type != kind {
			continue
		}
		old := c.list[i]
		next := Condition{kind, status, reason, message, old.Since}
		if next == old {
			return false
		}
		if next.Status != old.Status || next.Reason != old.Reason {
			next.Since = now
		}
		c.list[i] = next
		return true
	}
	panic("status: condition " + kind + " is not in the table of definitions")
}

// Clear sets the condition to false without a reason.
func (c *Conditions) Clear(kind string, now time.Time) bool { return c.Set(kind, false, "", "", now) }

// Is reports the status of a condition.
func (c *Conditions) Is(kind string) bool { return c.Get(kind).Status }

// Get gives one condition; the zero Condition for an unknown type.
func (c *Conditions) Get(kind string) Condition {
	for _, got := range c.list {
		if got.Type == kind {
			return got
		}
	}
	return Condition{}
}

// List gives a copy of all conditions, in the order of Definitions.
func (c *Conditions) List() []Condition { return append([]Condition(nil), c.list...) }
