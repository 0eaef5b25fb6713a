package cluster

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

// Active gives the name of a replica that leads some network, "" if none does: it watches the records of LeaseBucket for a
// renewal, for about two of their intervals.
func Active(ctx context.Context, leases store.Bucket) (string, error) {
	held := false
	if err := leases.Each(ctx, "", func(_ string, value []byte) error {
		r, err := decodeRecord(value)
		held = held || err == nil && r.Holder != ""
		return err
	}); err != nil {
		return "", err
	}
	if !held {
		return "", nil
	}
	watching, enough := context.WithTimeout(ctx, 2*RenewInterval+RenewInterval/2)
	defer enough()
	name := ""
	ready := false
	_ = leases.Watch(watching, "", func(c store.Change) { // always ends with an error
		switch r, err := decodeRecord(c.Value); {
		case c.Key == "":
			ready = true
		case ready && err == nil && r.Holder != "":
			name = r.Replica
			enough()
		}
	})
	return name, ctx.Err()
}

func decodeRecord(value []byte) (record, error) {
	var r record
	if err := protocol.Decode(value, 4<<10, &r); err != nil {
		return record{}, fmt.Errorf("record of a leader: %w", err)
	}
	return r, nil
}

// RestoredLeases gives the records of LeaseBucket after a restore: nobody leads, and terms go on above all that were known.
func RestoredLeases(backup, present map[string][]byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	terms := map[string]uint64{}
	for _, values := range []map[string][]byte{backup, present} {
		for key, value := range values {
			r, err := decodeRecord(value)
			if err != nil {
				return nil, err
			}
			terms[key] = max(terms[key], r.Term)
		}
	}
	for key := range maps.Keys(terms) {
		data, err := protocol.Encode(record{Term: terms[key] + lostTerms})
		if err != nil {
			return nil, err
		}
		out[key] = data
	}
	return out, nil
}

// lostTerms is more than there can have been since a backup: one takes about a second.
const lostTerms = uint64(100 * 365 * 24 * time.Hour / time.Second)
