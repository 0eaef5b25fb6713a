package serve

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/internal/protocol"
)

// network is a Network with what the server remembers of its members.
type network struct {
	Network
	seed maphash.Seed

	// elsewhere is what other replicas say of their nodes.
	elsewhere elsewhere

	mu    sync.Mutex
	zones map[string]*zone
}

// zone is what the server remembers of one zone.
type zone struct {
	name string
	net  *network

	mu      sync.Mutex
	members map[string]*member
	frames  *frames // of the newest generation
}

// member is what the server remembers of one node: made at its first proven request, dropped when a generation without it
// is served.
type member struct {
	name     string
	watches  atomic.Int32
	lastSeen atomic.Int64 // Unix seconds

	mu       sync.Mutex
	replay   replay
	reported time.Time
	status   *protocol.NodeStatus
}

func newNetwork(n Network) *network {
	return &network{Network: n, seed: maphash.MakeSeed(), zones: map[string]*zone{}}
}

// inherit takes over what an earlier registration of the network remembered, so that a reload forgets no proof.
func (n *network) inherit(old *network) {
	old.mu.Lock()
	defer old.mu.Unlock()
	n.seed = old.seed
	for name, o := range old.zones {
		z := n.zone(name)
		o.mu.Lock()
		for name, m := range o.members {
			z.members[name] = m
		}
		o.mu.Unlock()
	}
}

// zone gives the memory for a zone that is published.
func (n *network) zone(name string) *zone {
	n.mu.Lock()
	defer n.mu.Unlock()
	z, ok := n.zones[name]
	if !ok {
		z = &zone{name: name, net: n, members: map[string]*member{}}
		n.zones[name] = z
	}
	return z
}

// member gives the memory for a node whose proof was verified.
func (z *zone) member(name string) *member {
	z.mu.Lock()
	defer z.mu.Unlock()
	m, ok := z.members[name]
	if !ok {
		m = &member{name: name}
		z.members[name] = m
	}
	return m
}

// known gives the memory for a node if there is any.
func (z *zone) known(name string) (*member, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m, ok := z.members[name]
	return m, ok
}

func (n *network) rootVersion() uint64 {
	if root := n.Publisher.Root(); root != nil {
		return root.Version
	}
	return 0
}

// serves reports whether some zone is published.
func (n *network) serves() bool {
	for _, z := range n.Publisher.Zones() {
		if s, _ := z.Snapshot(); s != nil && s.Timestamp != nil {
			return true
		}
	}
	return false
}

// storedStatus is a NodeStatus as the bucket keeps it.
type storedStatus struct {
	LastSeen int64               `json:"lastSeen"`
	Status   protocol.NodeStatus `json:"status"`
}

// loadStatuses reads what was kept before a restart. A value that cannot be read is dropped: it will be reported again.
func (n *network) loadStatuses(ctx context.Context, log *slog.Logger) error {
	return n.Status.Each(ctx, n.Name, func(key string, value []byte) error {
		s, err := decodeStored(key, value)
		if err != nil {
			log.Warn("kept status dropped", "key", key, "error", err)
			return nil
		}
		m := n.zone(s.Status.Zone).member(s.Status.Node)
		m.lastSeen.Store(s.LastSeen)
		m.status = &s.Status
		return nil
	})
}

// decodeStored reads what is kept under network.zone.node.
func decodeStored(key string, value []byte) (storedStatus, error) {
	var s storedStatus
	if err := protocol.Decode(value, protocol.MaxStatusBytes+1<<10, &s); err != nil {
		return storedStatus{}, err
	}
	parts := strings.Split(key, ".")
	if len(parts) != 3 || s.Status.Zone != parts[1] || s.Status.Node != parts[2] {
		return storedStatus{}, errors.New("it is of another node")
	}
	return s, nil
}

// replay remembers the IDs of proofs until they are too old to be used again: a hash with a secret seed and an expiry, 16
// bytes each.
type replay struct {
	seen   map[uint64]int64 // → Unix seconds
	pruned int64
}

// maxReplay bounds what one node can make the server remember: 4096 requests in two minutes.
const maxReplay = 4096

var errReplayed = errors.New("replayed")

// use records an ID once.
func (r *replay) use(id uint64, now time.Time) error {
	at := now.Unix()
	if r.seen == nil {
		r.seen = map[uint64]int64{}
	}
	if at > r.pruned+10 || len(r.seen) >= maxReplay {
		for k, until := range r.seen {
			if until < at {
				delete(r.seen, k)
			}
		}
		r.pruned = at
		if len(r.seen) == 0 {
			r.seen = map[uint64]int64{} // maps do not shrink
		}
	}
	if _, ok := r.seen[id]; ok {
		return errReplayed
	}
	if len(r.seen) >= maxReplay {
		return protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany, "too many requests by this node").RetryIn(30 * time.Second)
	}
	r.seen[id] = at + int64(2*protocol.ProofSkew/time.Second) + 1
	return nil
}
