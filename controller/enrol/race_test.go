package enrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/identity"
)

// Two controllers over one store, and names that many ask for at once: nothing is handed out twice.
func TestNothingIsHandedOutTwice(t *testing.T) {
	for name, open := range map[string]func(*world) store.Store{
		"memory": func(w *world) store.Store { return w.store },
		"jetstream": func(w *world) store.Store {
			s := must(jetstream.Open(t.Context(), jetstream.Options{Dir: t.TempDir(), Timeout: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler)}))(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.store = open(w)
			unlimited := func(o *Options) { o.Limits = Limits{PerIssuer: -1, PerSubject: -1, PerAddress: -1} }
			services := []*Service{w.service(unlimited), w.service(unlimited)}
			const hosts = 60
			var bound, refusals atomic.Int32
			var all sync.WaitGroup
			for i := range hosts {
				m := w.machine(fmt.Sprintf("host%d#%d", i/2, i)) // two want each name
				token := w.tokens.Issue(w.job(fmt.Sprintf("acme/app%d", i), i))
				all.Go(func() {
					_, err := m.enrol(services[i%2], "ci", token)
					var p *protocol.Problem
					switch {
					case err == nil:
						bound.Add(1)
					case errors.As(err, &p) && p.Code == protocol.CodeNameTaken:
						refusals.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			if bound.Load() != hosts/2 || refusals.Load() != hosts/2 {
				t.Errorf("%d bound, %d refused of %d", bound.Load(), refusals.Load(), hosts)
			}
			list, _ := w.service().Snapshot()
			seen := map[netip.Addr]string{}
			for _, s := range list {
				for _, a := range s.Binding.Addresses {
					if other, taken := seen[a]; taken {
						t.Errorf("%s was given to %s and %s", a, other, s.Binding.Node)
					}
					seen[a] = s.Binding.Node
				}
			}
			if len(list) != hosts/2 || count(t, services[0].opts.Buckets.Addresses) != len(seen) {
				t.Errorf("%d bindings, %d addresses claimed, %d held", len(list), count(t, services[0].opts.Buckets.Addresses), len(seen))
			}
			if left := identity.NewAdmitter().Admit(w.pub.Load().Repo, list, w.now()).Rejected; len(left) != 0 {
				t.Errorf("the compile leaves out %+v", left)
			}
		})
	}
}

// overtaken is a bucket whose first update comes after somebody else's.
type overtaken struct {
	store.Bucket
	before *sync.Once
	first  func()
}

func (o overtaken) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	o.before.Do(o.first)
	return o.Bucket.Update(ctx, key, value, revision)
}

// A request that two replicas work on at once, as after a connection was lost, does not make its token good again: one
// that commits to no keys would enrol whoever else has it.
func TestOvertakenRequestLeavesItsTokenUsed(t *testing.T) {
	w := newWorld(t)
	m, other := w.machine("a"), w.service()
	token := w.tokens.Issue(w.job("acme/app", 1))
	s := w.service(func(o *Options) {
		o.Buckets.Bindings = overtaken{o.Buckets.Bindings, new(sync.Once), func() { m.join(other, "ci", token) }}
	})
	m.join(s, "ci", token)
	_, err := w.machine("thief").enrol(s, "ci", token)
	refusedWith(t, err, protocol.CodeReplay)
}

// broken is a bucket that fails after some writes, as when a controller is killed.
type broken struct {
	store.Bucket
	left *atomic.Int32
}

var errKilled = errors.New("killed")

func (b broken) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if b.left.Add(-1) < 0 {
		return 0, errKilled
	}
	return b.Bucket.Update(ctx, key, value, revision)
}

func (b broken) Create(ctx context.Context, key string, value []byte) error {
	if b.left.Add(-1) < 0 {
		return errKilled
	}
	return b.Bucket.Create(ctx, key, value)
}

func (b broken) Remove(ctx context.Context, key string, revision uint64) error {
	if b.left.Load() < 0 {
		return errKilled
	}
	return b.Bucket.Remove(ctx, key, revision)
}

// Killed after each of its writes, a controller leaves nothing that the next one cannot use: the same request goes on
// where it was, and what nobody comes back for is another's after a while.
func TestKilledInTheMiddle(t *testing.T) {
	const writes = 4 // token, two addresses, binding
	for killed := range int32(writes) {
		t.Run(fmt.Sprint("after ", killed), func(t *testing.T) {
			w := newWorld(t)
			// Two addresses of each family, so that a lost one is missed.
			w.publishZone("10.1.0.0/30", "fd00:1::/126")
			left := new(atomic.Int32)
			left.Store(killed)
			s := w.service(func(o *Options) {
				o.Buckets.Tokens, o.Buckets.Addresses = broken{o.Buckets.Tokens, left}, broken{o.Buckets.Addresses, left}
				o.Buckets.Bindings = broken{o.Buckets.Bindings, left}
			})
			m := w.machine("a")
			token := w.tokens.Issue(w.job("acme/app", 1))
			if _, err := m.enrol(s, "ci", token); !errors.Is(err, errKilled) {
				t.Fatalf("not killed: %v", err)
			}
			next := w.service()
			if killed > 0 {
				thief := w.machine("thief")
				_, err := thief.enrol(next, "ci", token)
				refusedWith(t, err, protocol.CodeReplay)
			}
			w.pass(claimLife)
			// Nobody comes back: three others get all there is.
			for _, name := range []string{"b", "c", "d"} {
				other := w.machine(name)
				other.join(next, "ci", w.tokens.Issue(w.job("acme/"+name, 1)))
			}
			_, err := m.enrol(next, "ci", token)
			refusedWith(t, err, protocol.CodeExhausted, "10.1.0.0/30")
			path := protocol.LeavePath("acme", "prod", "b")
			if err := next.Leave(t.Context(), "prod", "b", w.machine("b").proof(path, nil), w.verify(path)); err != nil {
				t.Fatal(err)
			}
			m.join(next, "ci", token) // the very same request goes on
		})
	}
}

// publishZone makes a commit in which the zone has these dynamic ranges.
func (w *world) publishZone(dynamic ...string) {
	repo := *w.pub.Load()
	zone := repo.Repo.Zone("prod")
	zone.Value.Spec.Dynamic = nil
	for _, d := range dynamic {
		zone.Value.Spec.Dynamic = append(zone.Value.Spec.Dynamic, netip.MustParsePrefix(d))
	}
	w.pub.Store(&repo)
}

func TestAnotherControllersWritesAreSeen(t *testing.T) {
	w := newWorld(t)
	changed := make(chan struct{}, 16)
	one, two := w.service(), w.service(func(o *Options) { o.Changed = func() { changed <- struct{}{} } })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { two.Run(ctx) })
	defer running.Wait()
	defer stop()
	m := w.machine("laptop")
	m.join(one, "corp", m.token(w.person("ann", "ops")))
	sees := func(n int) { // until the other's writes are seen, which may be more than one
		for list, _ := two.Snapshot(); len(list) != n; list, _ = two.Snapshot() {
			<-changed
		}
	}
	sees(1)
	path := protocol.LeavePath("acme", "prod", "laptop")
	if err := one.Leave(t.Context(), "prod", "laptop", m.proof(path, nil), w.verify(path)); err != nil {
		t.Fatal(err)
	}
	sees(0)
}

func TestRestartKeepsUsedTokensAndBindings(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	open := func() (store.Store, *Service) {
		s := must(jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Timeout: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler)}))(t)
		w.store = s
		return s, w.service()
	}
	first, s := open()
	m, other := w.machine("a"), w.machine("b")
	token := w.tokens.Issue(w.job("acme/app", 1))
	b := m.join(s, "ci", token)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, s := open()
	defer func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}()
	_, err := other.enrol(s, "ci", token)
	refusedWith(t, err, protocol.CodeReplay)
	if again := m.join(s, "ci", token); again.Issued != b.Issued {
		t.Error("another binding after a restart")
	}
	w.recheck(s, "a")
}

func TestAddresses(t *testing.T) {
	w := newWorld(t)
	w.publishZone("10.1.0.0/30", "10.1.8.0/31", "fd00:1::/64")
	zone := &w.pub.Load().Repo.Zone("prod").Value
	pool := newPool(zone)
	if len(pool) != 2 {
		t.Fatalf("%d families", len(pool))
	}
	got := map[netip.Addr]bool{}
	for a := range pool[0].candidates(nil, "prod", w.machine("x").identity()) {
		if got[a] {
			t.Errorf("%s twice", a)
		}
		got[a] = true
		if err := identity.CheckAddress(zone, a); err != nil {
			t.Error(err)
		}
	}
	if len(got) != 5 { // 10.1.0.0 is the network address of the range
		t.Errorf("%d addresses: %v", len(got), got)
	}
	tries := 0
	for a := range pool[1].candidates([]netip.Addr{netip.MustParseAddr("fd00:1::7"), netip.MustParseAddr("10.9.9.9")}, "prod", w.machine("x").identity()) {
		if tries == 0 && a != netip.MustParseAddr("fd00:1::7") {
			t.Errorf("%s before what is wanted", a)
		}
		if err := identity.CheckAddress(zone, a); err != nil {
			t.Error(err)
		}
		if tries++; tries > 100 {
			break
		}
	}
	w.publishZone()
	m := w.machine("laptop")
	_, err := m.enrol(w.service(), "corp", m.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeExhausted, "spec.dynamic")
}

func TestTakenAddressIsNotGiven(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	a, b := w.machine("a"), w.machine("b")
	first := a.join(s, "corp", a.token(w.person("ann", "ops")))
	second := b.join(s, "corp", b.token(w.person("bob", "ops")), func(r *protocol.EnrolRequest) { r.Address = first.Addresses })
	for i := range first.Addresses {
		if first.Addresses[i] == second.Addresses[i] {
			t.Errorf("%s was given twice", first.Addresses[i])
		}
	}
}

func TestRatesForgetNobodyTooSoon(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := newRates(60)
	for range 60 {
		if r.charge("a", now) != 0 {
			t.Fatal("within the limit")
		}
	}
	if wait := r.charge("a", now); wait <= 0 || wait > time.Second {
		t.Errorf("wait %s", wait)
	}
	if r.charge("a", now.Add(time.Second)) != 0 {
		t.Error("one a second")
	}
	for i := range 3 * maxRates {
		r.charge(fmt.Sprint(i), now)
	}
	if len(r.young)+len(r.old) > 2*maxRates {
		t.Errorf("%d keys remembered", len(r.young)+len(r.old))
	}
}

// BenchmarkEnrol is one enrolment over the embedded JetStream, from the decoded request to the stored binding, without the
// verification of the token's signature and of the proof.
func BenchmarkEnrol(b *testing.B) {
	w := newWorld(b)
	s := must(jetstream.Open(b.Context(), jetstream.Options{Dir: b.TempDir(), Timeout: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler)}))(b)
	defer func() { _ = s.Close() }()
	w.store = s
	w.publishZone("10.1.0.0/17", "fd00:1::/80")
	service := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: -1, PerSubject: -1, PerAddress: -1} })
	from := netip.MustParseAddr("203.0.113.7")
	type asked struct {
		proof *protocol.Token
		req   protocol.EnrolRequest
	}
	all := make([]asked, b.N)
	for i := range all {
		m := w.machine(fmt.Sprint("host", i))
		all[i].proof, all[i].req = m.request(service, "ci", w.tokens.Issue(w.job(fmt.Sprint("acme/app", i), i)))
	}
	b.ResetTimer()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a := all[next.Add(1)-1]
			if _, err := service.Enrol(b.Context(), from, a.proof, a.req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
