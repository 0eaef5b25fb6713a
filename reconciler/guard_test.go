package reconciler_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// brokenRoutes cannot be read while fail is set.
type brokenRoutes struct {
	routing
	fail bool
}

type routing = reconciler.Routes

func (b *brokenRoutes) Routes(ctx context.Context) ([]reconciler.HostRoute, error) {
	if b.fail {
		return nil, errors.New("the dump was interrupted")
	}
	return b.routing.Routes(ctx)
}

// TestRulesStandWhateverElseFails: what cannot be read of the host does not keep the rules from being put back, neither in
// a repair nor at start.
func TestRulesStandWhateverElseFails(t *testing.T) {
	h := twin.New()
	opt := options(h, t.TempDir())
	routes := &brokenRoutes{routing: opt.Backends.Routes}
	opt.Backends.Routes = routes
	fresh := func() *reconciler.Engine {
		e, err := reconciler.New(opt)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	stands := func(when string) {
		t.Helper()
		got, err := opt.Backends.Firewall.Table(t.Context(), reconciler.TableName(testName))
		if err != nil || !got.Exists || len(got.Sets) == 0 {
			t.Errorf("%s: the interface stands open: %+v %v", when, got, err)
		}
	}
	e := fresh()
	if _, err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state("one", 2), nil); err != nil {
		t.Fatal(err)
	}
	routes.fail = true
	h.FlushTables()
	if r, err := e.Repair(t.Context()); err == nil || !r.Drift {
		t.Errorf("the error is hidden: %+v %v", r, err)
	}
	stands("repair")
	h.FlushTables()
	if _, err := fresh().Recover(t.Context()); err == nil {
		t.Error("the error is hidden")
	}
	stands("start")
}

// TestARovingPeerUndoesNothing: a peer that begins a handshake from elsewhere between the write and the re-read moves its
// endpoint, and nothing shows yet that it did. That must not undo the change.
func TestARovingPeerUndoesNothing(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("one", 2))
	f.SetSteps(nil, func(reconciler.Change) {
		f.host.Handshake(testName, publicKey(0), time.Time{}, netip.MustParseAddrPort("203.0.113.66:6666"))
	})
	s := state("two", 2)
	s.Firewall.Rules = s.Firewall.Rules[:1] // a withdrawal that the peer would rather prevent
	if r, err := f.Apply(t.Context(), s, nil); err != nil {
		t.Errorf("one peer decides what is applied: %+v %v", r, err)
	}
}

// TestForwardingIsPutBackFromADamagedFolder: kernel parameters are put back although the confirmed state cannot be read.
func TestForwardingIsPutBackFromADamagedFolder(t *testing.T) {
	const name = "net/ipv4/conf/eth0/forwarding"
	for what, end := range map[string]func(*reconciler.Engine) error{
		"down": func(e *reconciler.Engine) error {
			_, err := e.Down(t.Context())
			return err
		},
		"recover, then down after another start": func(e *reconciler.Engine) error {
			_, err := e.Recover(t.Context())
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			h, dir := twin.New(), t.TempDir()
			h.SetSysctl(name, "0")
			f := start(t, h, dir)
			f.mustApply(t, richState("router"))
			if v, err := h.Backends().Sysctl.Get(t.Context(), name); err != nil || v != "1" {
				t.Fatalf("forwarding is %q %v", v, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "confirmed.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, last := range []func(*reconciler.Engine) error{end, func(e *reconciler.Engine) error { _, err := e.Down(t.Context()); return err }} {
				e, err := reconciler.New(options(h, dir))
				if err != nil {
					t.Fatal(err)
				}
				if err := last(e); err != nil {
					t.Fatal(err)
				}
			}
			if v, err := h.Backends().Sysctl.Get(t.Context(), name); err != nil || v != "0" {
				t.Errorf("this host still forwards: %q %v", v, err)
			}
		})
	}
}
