package controller_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// agent verifies what it is served, as a real one does.
type agent struct {
	w          *world
	zone, name string
	state      signer.State
	artefacts  map[peermap.Digest][]byte
	view       []byte
}

func (w *world) agent(zone, name string) *agent {
	w.t.Helper()
	a := &agent{w: w, zone: zone, name: name, state: signer.NewState(w.name, zone, w.root.Pin()), artefacts: map[peermap.Digest][]byte{}}
	a.roots()
	return a
}

// roots fetches every trust root there is.
func (a *agent) roots() {
	a.w.t.Helper()
	for {
		resp, data := a.w.do(call{path: protocol.RootPath(a.w.name, a.zone, a.state.RootVersion()+1)})
		if resp.StatusCode == http.StatusNotFound {
			return
		}
		next, err := a.state.WithRoot(data, a.w.clock.Now())
		if err != nil {
			a.w.t.Fatal(err)
		}
		a.state = next
	}
}

// watch is an open event stream.
type watch struct {
	*protocol.WatchReader
	resp   *http.Response
	cancel context.CancelFunc
}

func (w *watch) close() {
	w.cancel()
	w.Close()
	_ = w.resp.Body.Close()
}

// open opens the stream with what the agent holds.
func (a *agent) open() *watch {
	a.w.t.Helper()
	q := url.Values{}
	if a.view != nil {
		q.Set(protocol.QueryHave, peermap.DigestOf(a.view).String())
		q.Set(protocol.QueryManifest, a.state.ManifestDigest().String())
	}
	c := a.w.as(a.name, call{path: protocol.WatchPath(a.w.name, a.zone, a.name)})
	ctx, cancel := context.WithCancel(a.w.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.w.url(c.path).String()+"?"+q.Encode(), nil)
	if err != nil {
		a.w.t.Fatal(err)
	}
	req.Header = c.header
	req.Header.Set("Accept-Encoding", "zstd")
	resp, err := a.w.client.Do(req)
	if err != nil {
		a.w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		a.w.t.Fatalf("watch: %v", protocol.ReadProblem(resp))
	}
	r, err := protocol.NewWatchReader(resp.Body, resp.Header.Get("Content-Encoding"))
	if err != nil {
		a.w.t.Fatal(err)
	}
	s := &watch{r, resp, cancel}
	a.w.t.Cleanup(s.close)
	return s
}

// next reads messages until something is said.
func (w *watch) next(t *testing.T) protocol.Message {
	t.Helper()
	for {
		m, err := w.Next()
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		if m.Timestamp != nil || m.Update != nil {
			return m
		}
	}
}

// take verifies a message and gives the map it leads to.
func (a *agent) take(m protocol.Message) *peermap.Map {
	a.w.t.Helper()
	result, err := a.tryTake(m)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return result
}

func (a *agent) tryTake(m protocol.Message) (*peermap.Map, error) {
	now := a.w.clock.Now()
	if m.Update == nil {
		next, err := a.state.WithTimestamp(m.Timestamp, now)
		if err == nil {
			a.state = next
		}
		return nil, err
	}
	u := m.Update
	if u.RootVersion > a.state.RootVersion() {
		a.roots()
	}
	state, err := a.state.WithTimestamp(u.Timestamp, now)
	if err != nil {
		return nil, err
	}
	if state, err = state.WithManifest(u.Manifest, now); err != nil {
		return nil, err
	}
	view := a.view
	if u.View != nil {
		if view, err = u.View.Open(peermap.MaxViewBytes, func(d peermap.Digest) ([]byte, bool) {
			return a.view, d == peermap.DigestOf(a.view)
		}); err != nil {
			return nil, err
		}
	}
	if peermap.DigestOf(view) != u.ViewDigest {
		return nil, errors.New("the view is not the one announced")
	}
	if _, err := state.CheckNodeView(a.name, u.Index, u.Size, view, u.Proof); err != nil {
		return nil, err
	}
	for _, art := range u.Artefacts {
		data, err := art.Open(peermap.MaxClassBytes, func(d peermap.Digest) ([]byte, bool) { b, ok := a.artefacts[d]; return b, ok })
		if err != nil {
			return nil, err
		}
		a.artefacts[art.Digest] = data
	}
	result, err := peermap.Assemble(a.w.name, a.zone, a.name, view, func(d peermap.Digest) ([]byte, bool) { b, ok := a.artefacts[d]; return b, ok })
	if err != nil {
		return nil, err
	}
	a.state, a.view = state, view
	return result, nil
}

func peerNames(m *peermap.Map) string {
	var names []string
	for _, p := range m.Peers {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}
