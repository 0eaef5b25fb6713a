package serve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

// report sends the status of a node, in process.
func (f *fixture) report(node string) int {
	f.tb.Helper()
	body, err := protocol.Encode(protocol.NodeStatus{Network: "acme", Zone: "prod", Node: node, Conditions: []protocol.Condition{}})
	if err != nil {
		f.tb.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "http://"+f.addr+protocol.ReportPath("acme", "prod", node), bytes.NewReader(body))
	p, err := protocol.NewProof(node, http.MethodPost, r.URL, body, time.Now())
	if err != nil {
		f.tb.Fatal(err)
	}
	token, err := p.Sign(f.id(node).Sign)
	if err != nil {
		f.tb.Fatal(err)
	}
	r.Header.Set(protocol.ProofHeader, token)
	w := httptest.NewRecorder()
	f.server.Handler().ServeHTTP(w, r)
	_, _ = io.Copy(io.Discard, w.Body)
	return w.Code
}

// keepIn makes the fixture's network keep statuses in a bucket.
func (f *fixture) keepIn(b store.Bucket) {
	f.tb.Helper()
	err := f.server.Set(f.tb.Context(), serve.Network{
		Name: "acme", Publisher: f.publisher, Control: control{}, Roots: func(uint64) ([]byte, bool) { return nil, false }, Status: b, Done: f.done,
	})
	if err != nil {
		f.tb.Fatal(err)
	}
}

func statusBucket(t *testing.T) store.Bucket {
	t.Helper()
	b, err := store.NewMemory(time.Now).Bucket(t.Context(), serve.StatusBucket())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Members that come, report and go under one new name after the other leave nothing behind, and neither do zones.
func TestStatusGoesWithItsNode(t *testing.T) {
	f := newFixture(t)
	b := statusBucket(t)
	f.keepIn(b)
	kept := func(want ...string) {
		t.Helper()
		if err := f.server.Tidy(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		keys, err := b.Keys(t.Context(), "acme")
		if slices.Sort(keys); err != nil || !slices.Equal(keys, want) {
			t.Fatalf("kept are %v, want %v: %v", keys, want, err)
		}
	}
	if err := b.Put(t.Context(), "other.prod."+name(7), []byte("{}")); err != nil { // another network's is its own matter
		t.Fatal(err)
	}
	for i := 1; i < 5; i++ {
		docs := f.nodes(1, 1)
		docs["guest.yaml"] = f.node(i, 1)
		f.publish(docs)
		for _, node := range []string{name(0), name(i)} {
			if got := f.report(node); got != http.StatusNoContent && (i == 1 || node != name(0)) { // one report per interval
				t.Fatalf("report of %s: %d", node, got)
			}
		}
		kept("acme.prod."+name(0), "acme.prod."+name(i))
	}
	f.publish(f.nodes(1, 1))
	kept("acme.prod." + name(0))
	f.publish(map[string]string{"net.yaml": f.nodes(0, 1)["net.yaml"]}) // the zone is gone
	kept()
	if _, err := b.Get(t.Context(), "other.prod."+name(7)); err != nil {
		t.Errorf("another network's status: %v", err)
	}
}

// full is a bucket that takes nothing.
type full struct{ store.Bucket }

func (full) Put(context.Context, string, []byte) error {
	return errors.New("nats: maximum bytes exceeded")
}

// Where no status can be kept, reports are taken all the same, and shown until the next restart. The bucket is bounded, so that
// it cannot fill the store.
func TestFullStatusBucketCostsTheStatusOnly(t *testing.T) {
	if limit := serve.StatusBucket().MaxBytes; limit <= 0 || limit > 1<<30 {
		t.Errorf("the bucket may take %d bytes of the store's 4 GiB", limit)
	}
	f := newFixture(t)
	f.keepIn(full{statusBucket(t)})
	f.publish(f.nodes(1, 1))
	if got := f.report(name(0)); got != http.StatusNoContent {
		t.Fatalf("report: %d", got)
	}
	if fleet, ok := f.server.Fleet("acme"); !ok || fleet.Zones[0].Nodes[0].Status == nil {
		t.Errorf("the report is not shown: %+v", fleet)
	}
	if got := f.get(name(0), protocol.TimestampPath("acme", "prod"), nil); got != http.StatusOK {
		t.Errorf("an agent is answered %d", got)
	}
}
