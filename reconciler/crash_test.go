package reconciler_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// killed is what a step panics with to stand for kill -9: nothing after it runs, no roll back, no deferred tidying.
type killed struct{}

// applyKilledAt applies s and dies at step n, before it or after it. It reports whether it died.
func applyKilledAt(t *testing.T, f *fixture, s reconciler.State, n int, after bool) (died bool) {
	t.Helper()
	step := 0
	die := func(reconciler.Change) {
		if step++; step == n {
			panic(killed{})
		}
	}
	if after {
		f.SetSteps(nil, die)
	} else {
		f.SetSteps(die, nil)
	}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(killed); !ok {
				panic(p)
			}
			died = true
		}
	}()
	if _, err := f.Apply(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	return false
}

func richState(id string) reconciler.State {
	s := state(id, 4)
	s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
	return s
}

// differentState differs from richState in every subsystem.
func differentState(id string) reconciler.State {
	s := state(id, 6)
	s.Peers = s.Peers[2:]
	s.Interface.PrivateKey, s.Interface.ListenPort, s.Interface.MTU = privateKey(2), 51999, 1380
	s.Addresses = []netip.Prefix{prefix("10.1.255.2/32")}
	s.Routes = []reconciler.Route{{Prefix: prefix("10.1.0.0/16")}, {Prefix: prefix("192.168.99.0/24")}}
	s.Firewall.Rules = s.Firewall.Rules[:1]
	return s
}

func TestKilledAtEveryStep(t *testing.T) {
	for _, first := range []bool{true, false} {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				h := twin.New()
				h.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
				before := h.Snapshot(reconciler.AliasOf(testOwner), testName)
				f := start(t, h, t.TempDir())
				if !first {
					f.mustApply(t, richState("good"))
				}
				if !applyKilledAt(t, f, differentState("next"), n, after) {
					if n < 8 {
						t.Fatalf("only %d steps", n)
					}
					break
				}
				name := fmt.Sprintf("first=%t after=%t step %d", first, after, n)
				e, err := reconciler.New(options(h, f.dir))
				if err != nil {
					t.Fatal(name, err)
				}
				if _, err := e.Apply(t.Context(), richState("x"), nil); !errors.Is(err, reconciler.ErrUnfinished) {
					t.Fatal(name, "apply before recover:", err)
				}
				r, err := e.Recover(t.Context())
				if err != nil || !r.RolledBack || r.Quarantine || r.ID != "next" {
					t.Fatalf("%s: %+v %v", name, r, err)
				}
				if now := h.Snapshot(reconciler.AliasOf(testOwner), testName); now != before {
					t.Fatalf("%s: foreign objects changed:\n%s\n%s", name, before, now)
				}
				if first {
					if err := h.Empty(reconciler.AliasOf(testOwner), testName); err != nil {
						t.Fatal(name, err)
					}
				} else {
					g := &fixture{Engine: e, host: h}
					g.settled(t)
					if s, _ := e.Confirmed(); s.ID != "good" {
						t.Fatal(name, s.ID)
					}
				}
				// The next start finds nothing unfinished, and the state can be applied after all.
				if _, err := e.Apply(t.Context(), differentState("next"), nil); err != nil {
					t.Fatal(name, err)
				}
			}
		}
	}
}

// TestEveryOperationFails lets each operation on the host fail in turn: the engine rolls back, and if that fails as
// well, Recover finishes it.
func TestEveryOperationFails(t *testing.T) {
	for n := 1; ; n++ {
		h := twin.New()
		h.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
		f := start(t, h, t.TempDir())
		f.mustApply(t, richState("good"))
		count, broken := 0, errors.New("the kernel says no")
		h.FailWith(func(string, string) error {
			if count++; count == n {
				return broken
			}
			return nil
		})
		r, err := f.Apply(t.Context(), differentState("next"), nil)
		h.FailWith(nil)
		if err == nil {
			if n < 12 {
				t.Fatalf("only %d operations", n)
			}
			break
		}
		if !errors.Is(err, reconciler.ErrRolledBack) || !errors.Is(err, broken) || r.Quarantine {
			t.Fatalf("operation %d: %+v %v", n, r, err)
		}
		f.settled(t)

		// The same with a kernel that goes on saying no.
		count = 0
		h.FailWith(func(string, string) error {
			if count++; count >= n {
				return broken
			}
			return nil
		})
		_, err = f.Apply(t.Context(), differentState("next"), nil)
		h.FailWith(nil)
		if !errors.Is(err, reconciler.ErrRolledBack) && !errors.Is(err, reconciler.ErrRollbackFailed) {
			t.Fatalf("operation %d: %v", n, err)
		}
		if errors.Is(err, reconciler.ErrRollbackFailed) {
			if _, err := f.Apply(t.Context(), richState("x"), nil); !errors.Is(err, reconciler.ErrUnfinished) {
				t.Fatal(err)
			}
			if _, err := f.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		f.settled(t)
	}
}

// world draws random states and random drift.
type world struct {
	*rand.Rand
	n int
}

func (w *world) state() reconciler.State {
	w.n++
	s := reconciler.State{ID: fmt.Sprint("s", w.n), Interface: reconciler.Interface{
		Name: testName, PrivateKey: privateKey(byte(1 + w.IntN(3))), ListenPort: uint16(w.IntN(3) * 1000), MTU: 1280 + w.IntN(3)*100,
	}}
	owner := make(map[int]int) // who claims which of 30 prefixes
	for i := range w.IntN(20) {
		p := peer(i)
		p.AllowedIPs = nil
		for range w.IntN(4) {
			k := w.IntN(30)
			if _, taken := owner[k]; !taken {
				owner[k] = i
				p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(peerAddr(k), 32))
			}
		}
		p.Keepalive = time.Duration(w.IntN(3)) * 10 * time.Second
		if w.IntN(3) == 0 {
			p.Endpoint = netip.AddrPort{}
		}
		s.Peers = append(s.Peers, p)
	}
	w.Shuffle(len(s.Peers), func(i, j int) { s.Peers[i], s.Peers[j] = s.Peers[j], s.Peers[i] })
	for range w.IntN(3) {
		s.Addresses = append(s.Addresses, prefix(fmt.Sprintf("10.1.255.%d/32", w.IntN(4))))
	}
	if w.IntN(2) == 0 {
		s.Addresses = append(s.Addresses, prefix("fd00:1::1/128"))
	}
	for range w.IntN(4) {
		s.Routes = append(s.Routes, reconciler.Route{Prefix: prefix(fmt.Sprintf("10.%d.0.0/16", w.IntN(5)))})
	}
	if w.IntN(3) == 0 {
		s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
	}
	for range w.IntN(3) {
		var set []netip.Prefix
		for range w.IntN(10) {
			set = append(set, w.member())
		}
		s.Firewall.Sets = append(s.Firewall.Sets, set)
	}
	if n := len(s.Firewall.Sets); n > 0 {
		for i := range w.IntN(4) {
			r := reconciler.Rule{ID: fmt.Sprint("r/", i), Hook: reconciler.Hook(1 + w.IntN(3)), From: []int{w.IntN(n)}}
			if w.IntN(2) == 0 {
				r.Ports = []reconciler.Port{{Protocol: 6, First: 80, Last: uint16(80 + w.IntN(3))}}
			}
			s.Firewall.Rules = append(s.Firewall.Rules, r)
		}
	}
	return s
}

func (w *world) member() netip.Prefix {
	if w.IntN(4) == 0 {
		return prefix(fmt.Sprintf("10.%d.0.0/16", w.IntN(9)))
	}
	return netip.PrefixFrom(peerAddr(w.IntN(30)), 32)
}

// drift does something an administrator might do.
func (w *world) drift(h *twin.Host) {
	route := prefix(fmt.Sprintf("10.%d.0.0/16", w.IntN(5)))
	switch w.IntN(12) {
	case 0:
		h.DeleteLink(testName)
	case 1:
		h.FlapLink(testName, w.IntN(2) == 0)
	case 2:
		h.FlushTables()
	case 3:
		h.EditSet()
	case 4:
		h.DeleteRoute(testName, route)
	case 5:
		h.AddRoute(reconciler.HostRoute{Prefix: route, Link: "eth0", Metric: w.IntN(5000)})
	case 6:
		h.DeleteRoute("eth0", route)
	case 7:
		h.AddAddress("eth0", prefix(fmt.Sprintf("10.1.255.%d/24", w.IntN(4))))
	case 8:
		h.AddAddress(testName, prefix("10.99.0.1/24"))
	case 9:
		h.EditPeer(testName, publicKey(w.IntN(25)), nil)
	case 10:
		h.EditPeer(testName, publicKey(w.IntN(25)), func(p *reconciler.DevicePeer) {
			p.HasPSK, p.Keepalive = true, 77*time.Second
			p.Endpoint = netip.MustParseAddrPort("192.0.2.66:66")
		})
	case 11:
		h.EditDevice(testName, uint16(w.IntN(5)*1000), w.IntN(2))
	}
}

// TestConvergence: whatever the order of states, drift, failures and restarts, the host ends as the last confirmed state
// asks, and nothing foreign is ever touched.
func TestConvergence(t *testing.T) {
	for seed := range uint64(16) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 7))}
		h := twin.New()
		h.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
		h.AddLink("wg9", prefix("10.77.0.1/24"))
		h.AddForeignTable("filter")
		f := start(t, h, t.TempDir())
		foreign := func() string { return h.Snapshot(reconciler.AliasOf(testOwner), testName) }
		for step := range 40 {
			for range w.IntN(3) {
				w.drift(h)
			}
			before := foreign()
			var err error
			failAt := 0
			switch w.IntN(6) {
			case 0:
				if _, err = f.Repair(t.Context()); err != nil {
					t.Fatalf("seed %d step %d: repair: %v", seed, step, err)
				}
			case 1:
				f = start(t, h, f.dir)
			case 2:
				failAt = 1 + w.IntN(12)
				h.FailWith(func(string, string) error {
					if failAt--; failAt == 0 {
						return errors.New("injected")
					}
					return nil
				})
				fallthrough
			default:
				_, err = f.Apply(t.Context(), w.state(), nil)
				h.FailWith(nil)
				if err != nil && !errors.Is(err, reconciler.ErrRolledBack) {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
			}
			if now := foreign(); now != before {
				t.Fatalf("seed %d step %d: foreign objects changed:\n%s\n%s", seed, step, before, now)
			}
			f.settled(t)
		}
		if _, err := f.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.Empty(reconciler.AliasOf(testOwner), testName); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
