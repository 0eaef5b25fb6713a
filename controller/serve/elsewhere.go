package serve

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

// Several replicas of a controller share the nodes of a network. Each keeps what its nodes report in the store, and says
// there every few seconds which nodes watch it, so that the one that is asked can speak for all.

// WatchersBucket keeps which nodes watch each replica, by network.replica.
func WatchersBucket() store.BucketConfig {
	return store.BucketConfig{Name: "watchers", Description: "which nodes are connected to each replica", TTL: watchersLife, MaxValueBytes: 900 << 10}
}

const (
	watchersInterval = 2 * time.Second
	watchersLife     = 5 * watchersInterval
	// watchersAgain is how often a replica says so without a change.
	watchersAgain = watchersLife / 2
	// maxWatchers bounds a record, unpacked.
	maxWatchers = 16 << 20
)

// watchers is what a replica says: its nodes by zone, sorted.
type watchers struct {
	Zones map[string][]string `json:"zones"`
}

// elsewhere is what other replicas said.
type elsewhere struct {
	mu       sync.Mutex
	replicas map[string]heard
}

type heard struct {
	at    time.Time
	zones map[string][]string
}

// connected reports whether a node watches another replica, as far as is known.
func (e *elsewhere) connected(zone, node string, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.replicas {
		if now.Sub(h.at) < watchersLife {
			if _, ok := slices.BinarySearch(h.zones[zone], node); ok {
				return true
			}
		}
	}
	return false
}

func (e *elsewhere) note(replica string, h heard) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.replicas == nil {
		e.replicas = map[string]heard{}
	}
	e.replicas[replica] = h
}

// Share lets a network's status be one over all replicas, of which this is me, until ctx ends. bucket is that of
// WatchersBucket. A network that is not served is no error: it may come back.
func (s *Server) Share(ctx context.Context, name, me string, bucket store.Bucket) {
	var parts sync.WaitGroup
	parts.Go(func() { s.sayWatchers(ctx, name, me, bucket) })
	parts.Go(func() {
		s.follow(ctx, name, bucket, func(n *network, c store.Change) { n.hearWatchers(me, c, s.opts.Logger) })
	})
	if n, ok := s.network(name); ok {
		parts.Go(func() {
			s.follow(ctx, name, n.Status, func(n *network, c store.Change) { n.hearStatus(c) })
		})
	}
	parts.Wait()
}

// follow calls f with every change below a network's name.
func (s *Server) follow(ctx context.Context, name string, bucket store.Bucket, f func(*network, store.Change)) {
	for ctx.Err() == nil {
		err := bucket.Watch(ctx, name, func(c store.Change) {
			if n, ok := s.network(name); ok && c.Key != "" && !c.Deleted {
				f(n, c)
			}
		})
		if ctx.Err() == nil {
			s.opts.Logger.Warn("other replicas' nodes are not followed", "network", name, "error", err)
			pause(ctx, watchersInterval)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// sayWatchers writes this replica's record when it changes, and now and then.
func (s *Server) sayWatchers(ctx context.Context, network, me string, bucket store.Bucket) {
	var last []byte
	var said time.Time
	for ctx.Err() == nil {
		if n, ok := s.network(network); ok {
			data, err := packWatchers(n.watchers())
			if err == nil && (!bytes.Equal(data, last) || time.Since(said) >= watchersAgain) {
				if err = bucket.Put(ctx, network+"."+me, data); err == nil {
					last, said = data, time.Now()
				}
			}
			if err != nil && ctx.Err() == nil {
				s.opts.Logger.Debug("connected nodes not told to other replicas", "network", network, "error", err)
			}
		}
		pause(ctx, watchersInterval)
	}
}

// watchers lists the nodes that watch this replica.
func (n *network) watchers() watchers {
	n.mu.Lock()
	zones := make([]*zone, 0, len(n.zones))
	for _, z := range n.zones {
		zones = append(zones, z)
	}
	n.mu.Unlock()
	out := watchers{Zones: map[string][]string{}}
	for _, z := range zones {
		var names []string
		z.mu.Lock()
		for name, m := range z.members {
			if m.watches.Load() > 0 {
				names = append(names, name)
			}
		}
		z.mu.Unlock()
		if len(names) > 0 {
			slices.Sort(names)
			out.Zones[z.name] = names
		}
	}
	return out
}

func packWatchers(w watchers) ([]byte, error) {
	data, err := protocol.Encode(w)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	_, err = zip.Write(data)
	if err = errors.Join(err, zip.Close()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// hearWatchers takes another replica's record.
func (n *network) hearWatchers(me string, c store.Change, log *slog.Logger) {
	replica := strings.TrimPrefix(c.Key, n.Name+".")
	if replica == me {
		return
	}
	w, err := unpackWatchers(c.Value)
	if err != nil {
		log.Warn("connected nodes of another replica not read", "network", n.Name, "error", err)
		return
	}
	n.elsewhere.note(replica, heard{at: time.Now(), zones: w.Zones})
}

func unpackWatchers(packed []byte) (w watchers, err error) {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, zip.Close()) }()
	data, err := protocol.ReadAll(io.Reader(zip), maxWatchers)
	if err != nil {
		return w, err
	}
	return w, protocol.Decode(data, maxWatchers, &w)
}

// hearStatus takes a status that another replica kept, unless a newer one is known. Its own come back to it too.
func (n *network) hearStatus(c store.Change) {
	s, err := decodeStored(c.Key, c.Value)
	if err != nil {
		return // it will be reported again
	}
	m := n.zone(s.Status.Zone).member(s.Status.Node)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reported.IsZero() || s.LastSeen >= m.reported.Unix() {
		m.status = &s.Status
	}
	m.lastSeen.Store(max(s.LastSeen, m.lastSeen.Load()))
}
