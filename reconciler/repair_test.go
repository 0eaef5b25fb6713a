package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

func TestRestartRestoresEverything(t *testing.T) {
	dir := t.TempDir()
	f := start(t, twin.New(), dir)
	for i := range 20 { // some in the base file, most in the log
		s := state(fmt.Sprint(i), 5+i)
		s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
		f.host.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
		f.mustApply(t, s)
	}
	want, _ := f.Confirmed()
	h := twin.New() // a reboot: nothing is left on the host
	h.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
	g := start(t, h, dir)
	got, ok := g.Confirmed()
	if !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("confirmed after a restart:\n%v\n%v", got, want)
	}
	g.settled(t)
}

func TestForwardingIsPutBack(t *testing.T) {
	h := twin.New()
	const lan, other = "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/eth0/accept_ra"
	h.SetSysctl(lan, "0")
	h.SetSysctl("net/ipv6/conf/all/forwarding", "0")
	h.SetSysctl(other, "1")
	f := start(t, h, t.TempDir())
	s := state("router", 1)
	s.Forward = []netip.Prefix{prefix("192.168.7.0/24"), prefix("fd00:7::/64")}
	f.mustApply(t, s)
	f.settled(t)
	sys := h.Backends().Sysctl
	get := func(name string) string { v, _ := sys.Get(t.Context(), name); return v }
	if get(lan) != "1" || get("net/ipv6/conf/all/forwarding") != "1" || get(other) != "2" || get("net/ipv4/conf/apex-blue/forwarding") != "1" {
		t.Error("the host does not forward")
	}
	f.mustApply(t, state("leaf", 1))
	if get(lan) != "0" || get("net/ipv6/conf/all/forwarding") != "0" || get(other) != "1" || get("net/ipv4/conf/apex-blue/forwarding") != "0" {
		t.Error("the host still forwards")
	}
	f.mustApply(t, s)
	h.SetSysctl(lan, "2") // somebody else has taken it over
	if _, err := f.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if get(lan) != "2" || get("net/ipv6/conf/all/forwarding") != "0" {
		t.Error("down does not put back what is ours alone")
	}
}

func TestDamagedStoreIsSetAside(t *testing.T) {
	for name, spoil := range map[string]string{
		"garbage": "{", "unknown field": `{"version":1,"nonsense":2}`, "version": `{"version":9}`, "two documents": "{}{}", "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := start(t, twin.New(), dir)
			f.mustApply(t, state("one", 3))
			if err := os.WriteFile(filepath.Join(dir, "confirmed.json"), []byte(spoil), 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := reconciler.New(options(f.host, dir))
			if err != nil {
				t.Fatal(err)
			}
			f.host.Operations()
			r, err := e.Recover(t.Context())
			if err != nil || r.Reason == "" || len(f.host.Operations()) != 0 {
				t.Fatalf("%+v %v", r, err)
			}
			if _, err := e.Apply(t.Context(), state("two", 3), nil); err != nil {
				t.Fatal(err)
			}
			if ops := f.host.Operations(); len(ops) != 0 {
				t.Errorf("an equal state changed the host: %q", ops)
			}
		})
	}
}

func TestRepairIsRateLimitedButTheFirewallIsNot(t *testing.T) {
	h := twin.New()
	opt := options(h, t.TempDir())
	opt.RepairBurst = 1
	now := time.Unix(1e9, 0)
	opt.Now = func() time.Time { return now }
	e, err := reconciler.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state("one", 1), nil); err != nil {
		t.Fatal(err)
	}
	spoil := func() { h.DeleteRoute(testName, prefix("10.1.0.0/16")); h.FlushTables() }
	spoil()
	if r, err := e.Repair(t.Context()); err != nil || r.Deferred || r.Total != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	spoil()
	if r, err := e.Repair(t.Context()); err != nil || !r.Deferred || r.Total != 1 || r.Changes[0].Subsystem != reconciler.SubsystemFirewall {
		t.Fatalf("%+v %v", r, err)
	}
	now = now.Add(time.Minute)
	if r, err := e.Repair(t.Context()); err != nil || r.Deferred || r.Total != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if s := e.Stats(); s.Repairs != 2 || s.RepairsDeferred != 1 || s.DriftedObjects != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWatchRepairs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := start(t, twin.New(), dir)
		f.mustApply(t, state("one", 3))
		ctx, cancel := context.WithCancel(t.Context())
		var reports []reconciler.Report
		done := make(chan error)
		go func() {
			done <- f.Watch(ctx, func(r reconciler.Report, err error) {
				if err != nil {
					t.Error(err)
				}
				reports = append(reports, r)
			})
		}()
		pass := func() { time.Sleep(200 * time.Millisecond); synctest.Wait() }
		pass()
		f.host.Operations()
		for name, spoil := range map[string]func(){
			"route":  func() { f.host.DeleteRoute(testName, prefix("10.1.0.0/16")) },
			"flap":   func() { f.host.FlapLink(testName, false) },
			"delete": func() { f.host.DeleteLink(testName) },
			"nft":    func() { f.host.FlushTables() },
			"broken": func() {
				f.host.BreakEvents()
				f.host.DeleteRoute(testName, prefix("10.1.0.0/16"))
				time.Sleep(2 * time.Second)
			},
			"wg set": func() { f.host.EditPeer(testName, publicKey(1), nil); time.Sleep(6 * time.Minute) },
		} {
			reports = nil
			spoil()
			pass()
			if len(reports) == 0 || !reports[0].Drift {
				t.Errorf("%s was not repaired: %v", name, reports)
			}
			f.host.Operations()
			f.host.DeleteRoute("eth0", prefix("172.16.0.0/12")) // not our business
			pass()
		}
		reports = nil
		if r := f.mustApply(t, state("two", 3)); r.Total != 0 {
			t.Errorf("%v", r)
		}
		pass()
		if ops := f.host.Operations(); len(ops) != 0 || len(reports) != 0 {
			t.Errorf("a quiet host was changed: %q %v", ops, reports)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type hostRoutes = reconciler.Routes // so that it can be embedded beside its method Routes

// deafRoutes are routes that cannot be read while deaf is set.
type deafRoutes struct {
	hostRoutes
	deaf *atomic.Bool
}

func (d deafRoutes) Routes(ctx context.Context) ([]reconciler.HostRoute, error) {
	if d.deaf.Load() {
		return nil, errors.New("no buffer space available")
	}
	return d.hostRoutes.Routes(ctx)
}

// TestWatchTellsWhenItIsOver: an error and a repair that waits are told of, and so is the first pass that finds nothing wrong, once.
func TestWatchTellsWhenItIsOver(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h, deaf := twin.New(), &atomic.Bool{}
		opt := options(h, dir)
		opt.Backends.Routes = deafRoutes{opt.Backends.Routes, deaf}
		opt.RepairBurst = 1
		e, err := reconciler.New(opt)
		if err == nil {
			_, err = e.Recover(t.Context())
		}
		if err == nil {
			_, err = e.Apply(t.Context(), state("one", 1), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		routes, err := opt.Backends.Routes.Routes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ours := routes[slices.IndexFunc(routes, func(r reconciler.HostRoute) bool { return r.Prefix == prefix("10.1.0.0/16") })]
		ctx, cancel := context.WithCancel(t.Context())
		var last string
		var told int
		done := make(chan error)
		go func() {
			done <- e.Watch(ctx, func(r reconciler.Report, err error) {
				told++
				switch {
				case err != nil:
					last = "error"
				case r.Deferred:
					last = "waits"
				case r.Drift:
					last = "repaired"
				default:
					last = "settled"
				}
			})
		}()
		expect := func(want string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if last != want {
				t.Errorf("told %q, want %q", last, want)
			}
		}
		expect("")
		deaf.Store(true)
		h.DeleteRoute(testName, ours.Prefix)
		h.AddRoute(ours)
		expect("error")
		deaf.Store(false)
		expect("settled")
		h.DeleteRoute(testName, ours.Prefix)
		expect("repaired")
		h.DeleteRoute(testName, ours.Prefix)
		expect("waits")
		h.AddRoute(ours)
		expect("settled")
		before := told
		expect("settled")
		if told != before {
			t.Errorf("told again %d times", told-before)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
