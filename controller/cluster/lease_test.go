package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/store"
)

// times are those of a clock that moves when nobody has anything to do (synctest): replicas that share a process which is not
// scheduled for a while would find two timers due at once, which machines of their own do not.
func times() cluster.Times {
	return cluster.Times{Renew: 20 * time.Millisecond, StepDown: 200 * time.Millisecond, TTL: 300 * time.Millisecond}
}

// shaky is a bucket that can be cut off from one of its users.
type shaky struct {
	store.Bucket
	cut  atomic.Bool
	slow atomic.Int64 // how long each write takes
}

var errCut = errors.New("cut off")

func (s *shaky) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if s.cut.Load() {
		return 0, errCut
	}
	if err := pause(ctx, time.Duration(s.slow.Load())); err != nil {
		return 0, err
	}
	return s.Bucket.Update(ctx, key, value, revision)
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// candidate is a replica that competes.
type candidate struct {
	lease  *cluster.Lease
	bucket *shaky
	stop   context.CancelFunc
	done   chan struct{}
}

// field is a number of candidates, and what they did.
type field struct {
	t      *testing.T
	bucket store.Bucket

	mu      sync.Mutex
	leading map[int]uint64 // candidate → term, while its lead runs
	terms   []uint64       // in the order of their beginnings
	clashes []string
}

func newField(t *testing.T, s store.Store) *field {
	b, err := s.Bucket(t.Context(), cluster.LeaseBucket())
	if err != nil {
		t.Fatal(err)
	}
	return &field{t: t, bucket: b, leading: map[int]uint64{}}
}

func (f *field) enter(i int) *candidate {
	f.t.Helper()
	me, err := cluster.NewReplica(fmt.Sprint("r", i))
	if err != nil {
		f.t.Fatal(err)
	}
	c := &candidate{bucket: &shaky{Bucket: f.bucket}, done: make(chan struct{})}
	c.lease = cluster.NewLease("acme", me, c.bucket, slog.New(slog.DiscardHandler), times())
	ctx, stop := context.WithCancel(f.t.Context())
	c.stop = func() { stop(); <-c.done }
	go func() {
		defer close(c.done)
		c.lease.Run(ctx, func(ctx context.Context, term uint64) {
			f.begin(i, term)
			<-ctx.Done()
			f.end(i)
		})
	}()
	f.t.Cleanup(c.stop)
	return c
}

func (f *field) begin(i int, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other := range f.leading {
		f.clashes = append(f.clashes, fmt.Sprintf("r%d began while r%d led", i, other))
	}
	f.leading[i] = term
	f.terms = append(f.terms, term)
}

func (f *field) end(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leading, i)
}

// await waits, in the time of the bubble, until is holds.
func (f *field) await(what string, is func() bool) {
	f.t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 2*time.Minute { // only for what hangs
			f.t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// leader waits until one leads that is none of those.
func (f *field) leader(except ...int) (who int) {
	f.t.Helper()
	f.await("somebody leads", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for who = range f.leading {
			if !slices.Contains(except, who) {
				return true
			}
		}
		return false
	})
	return who
}

// check demands that there was one leader at a time, with terms that grow.
func (f *field) check() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clashes {
		f.t.Error(c)
	}
	for i := 1; i < len(f.terms); i++ {
		if f.terms[i] <= f.terms[i-1] {
			f.t.Errorf("terms %v", f.terms)
		}
	}
}

func TestOneLeadsAndAnotherFollowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, store.NewMemory(time.Now))
		all := []*candidate{f.enter(0), f.enter(1), f.enter(2)}
		first := f.leader()
		for _, c := range all {
			f.await("everybody knows who it is", func() bool {
				who, ok := c.lease.Leader()
				return ok && who.Name == fmt.Sprint("r", first)
			})
		}
		if !all[first].lease.Leads() || all[first].lease.Confirm(t.Context()) != nil {
			t.Fatal("the leader does not know it")
		}
		all[first].stop()
		second := f.leader(first)
		if err := all[first].lease.Confirm(t.Context()); !errors.Is(err, cluster.ErrLost) {
			t.Fatalf("confirmed after the end: %v", err)
		}
		all[second].stop()
		f.leader(first, second)
		f.check()
	})
}

func TestWhoCannotRenewStepsDownBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, store.NewMemory(time.Now))
		all := []*candidate{f.enter(0), f.enter(1)}
		for range 3 {
			cut := f.leader()
			all[cut].bucket.cut.Store(true)
			f.leader(cut)
			all[cut].bucket.cut.Store(false)
		}
		f.check() // a clash would be the other one beginning while the first still led
	})
}

func TestWhoSleptIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, store.NewMemory(time.Now))
		var asleep atomic.Int64 // added to the sleeper's clock
		me, err := cluster.NewReplica("sleeper")
		if err != nil {
			t.Fatal(err)
		}
		slow := times()
		slow.Renew = time.Hour // it does not wake up to renew
		slow.StepDown, slow.TTL = 2*time.Hour, 3*time.Hour
		slow.Now = func() time.Time { return time.Now().Add(time.Duration(asleep.Load())) }
		bucket := &shaky{Bucket: f.bucket}
		sleeper := cluster.NewLease("acme", me, bucket, slog.New(slog.DiscardHandler), slow)
		led := make(chan struct{})
		lost := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			sleeper.Run(ctx, func(ctx context.Context, _ uint64) {
				select {
				case <-led:
				default:
					close(led)
					<-ctx.Done()
					close(lost)
				}
			})
		}()
		defer func() { stop(); <-ended }()
		<-led
		f.enter(1)
		f.leader()
		if err := sleeper.Confirm(t.Context()); !errors.Is(err, cluster.ErrLost) {
			t.Fatalf("a leader that slept was confirmed: %v", err)
		}
		asleep.Store(int64(3 * time.Hour))
		if sleeper.Leads() {
			t.Fatal("it thinks that it leads after its time")
		}
		f.check()
	})
}

func TestLeaseSurvivesAWriteOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The write is made, but its author is told that it failed: the record names an author who does not know.
		f := newField(t, store.NewMemory(time.Now))
		c := f.enter(0)
		f.leader()
		c.bucket.cut.Store(true)
		f.await("it gives up", func() bool { return !c.lease.Leads() })
		c.bucket.cut.Store(false)
		f.leader()
		f.check()
	})
}

// A store that takes its time is told all the same that nobody leads any more.
func TestLeaseIsGivenBackToASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, store.NewMemory(time.Now))
		c := f.enter(0)
		f.leader()
		other := f.enter(1)
		c.bucket.slow.Store(int64(3 * times().Renew))
		c.stop()
		synctest.Wait()
		if who, ok := other.lease.Leader(); ok && who.Name == "r0" {
			t.Error("the others wait until the lease has run out")
		}
		f.leader(0)
		f.check()
	})
}
