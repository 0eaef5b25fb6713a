package enrol

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
)

const (
	// tokenMemory is how long a used token is remembered: its life, the leeway at both ends, and a margin for clocks.
	tokenMemory = tokens.MaxLife + time.Hour
	// waitingLife is how long a request waits for a maintainer.
	waitingLife = 7 * 24 * time.Hour
	// presenceLife is how long an ephemeral node counts as connected to a replica that no longer says so.
	presenceLife = 90 * time.Second
)

// Buckets are the places in the store that a Service works with. Networks and replicas share them.
type Buckets struct {
	Bindings, Addresses, Tokens, Waiting, Presence, Revoked store.Bucket
}

// OpenBuckets opens them.
func OpenBuckets(ctx context.Context, s store.Store) (b Buckets, err error) {
	for _, o := range []struct {
		into *store.Bucket
		cfg  store.BucketConfig
	}{
		{&b.Bindings, store.BucketConfig{
			Name: "bindings", Description: "bindings with their evidence, by network.zone.node", MaxValueBytes: maxRecordBytes,
		}},
		{&b.Addresses, store.BucketConfig{
			Name: "addresses", Description: "who claims an address, by network.zone.address", MaxValueBytes: 1 << 10,
		}},
		{&b.Tokens, store.BucketConfig{
			Name: "tokens", Description: "tokens that were used, by network.digest", TTL: tokenMemory, MaxBytes: 1 << 30, MaxValueBytes: 1 << 10,
		}},
		{&b.Waiting, store.BucketConfig{
			Name: "waiting", Description: "enrolments that wait for a maintainer, by network.zone.id", TTL: waitingLife, MaxValueBytes: maxRecordBytes,
		}},
		{&b.Revoked, store.BucketConfig{
			Name: "revoked", Description: "bindings that git has ended, by network.zone.digest", MaxValueBytes: binding.MaxBytes,
		}},
		{&b.Presence, store.BucketConfig{
			Name: "presence", Description: "connected ephemeral nodes, by network.zone.node.replica", TTL: presenceLife, MaxValueBytes: 64,
		}},
	} {
		if *o.into, err = s.Bucket(ctx, o.cfg); err != nil {
			return Buckets{}, err
		}
	}
	return b, nil
}

// maxRecordBytes bounds a stored record: envelope and evidence in base64.
const maxRecordBytes = (binding.MaxEnvelopeBytes+protocol.MaxEvidenceBytes)*3/2 + 1<<10

// nodeKey names a node within a network.
type nodeKey struct{ zone, node string }

func (k nodeKey) String() string { return k.zone + "/" + k.node }

func (s *Service) bindingKey(k nodeKey) string { return s.opts.Network + "." + k.zone + "." + k.node }

func (s *Service) waitingKey(zone, id string) string { return s.opts.Network + "." + zone + "." + id }

func (s *Service) addressKey(zone string, a netip.Addr) string {
	return s.opts.Network + "." + zone + "." + hex.EncodeToString(a.AsSlice())
}

// splitKey reads the two words after the network of a key.
func splitKey(key string) (first, second string, err error) {
	parts := strings.Split(key, ".")
	if len(parts) != 3 {
		return "", "", fmt.Errorf("key %q: want three words", key)
	}
	return parts[1], parts[2], nil
}
