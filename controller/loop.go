package controller

import (
	"context"
	"math/rand/v2"
	"time"
)

// fetchTimeout bounds one fetch, syncTimeout the judging of what it brought, so that neither is the end of the loop.
const (
	fetchTimeout = 15 * time.Minute
	syncTimeout  = 15 * time.Minute
)

// follow keeps what is published in line with the branch and with the bindings. A fetch runs beside the loop: while the
// repository hangs, nodes enrol and bindings end all the same. Everything else runs in turn, so that nothing but the fetch
// can change the clone, and nothing but the loop what is accepted.
func (n *network) follow(ctx context.Context) {
	// Another replica may have led, and taken the branch further, since this one did.
	n.current, n.compiled, n.judged, n.expiry, n.seen, n.stuck = nil, "", "", time.Time{}, 0, ""
	n.batch, n.unwitnessed = batch{window: n.batch.window}, unwitnessed{}
	look, turn := time.NewTimer(0), time.NewTimer(never)
	defer look.Stop()
	defer turn.Stop()
	f := fetches{n: n, done: make(chan fetched, 1)}
	defer f.wait()
	for {
		n.hearWitnesses()
		wait, settled := n.nextTurn()
		turn.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			f.start(ctx, nil)
		case <-n.poke:
			f.again(ctx, nil)
		case o := <-n.orders:
			f.again(ctx, &o)
		case r := <-f.done:
			err := n.timed(ctx, func(ctx context.Context) error { return n.sync(ctx, r.head, r.err) })
			look.Reset(n.nextLook())
			f.answer(ctx, err)
		case <-n.changed:
			n.batch.change()
		case <-settled:
		case <-turn.C:
			n.takeTurn(ctx)
		}
	}
}

// never is a wait that something else ends.
const never = 24 * time.Hour

func (n *network) timed(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return f(ctx)
}

// nextLook is the poll interval with its jitter.
func (n *network) nextLook() time.Duration {
	interval := time.Duration(n.cfg.Poll.Interval)
	if j := *n.cfg.Poll.JitterPercent; j > 0 {
		spread := interval * time.Duration(j) / 100
		interval += rand.N(2*spread+1) - spread
	}
	return interval
}

// overdue is the pause while a rule or binding has ended and what is published still holds it, or a change of bindings
// could not be published: because the end came during the last pass, or because that pass failed (nothing could be signed
// or stored), which is no reason to spin.
const overdue = time.Second

// fetched is the outcome of a fetch.
type fetched struct {
	head string
	err  error
}

// fetches runs one fetch at a time. Who asks while one is under way gets another after it, for the branch may have moved
// since it began; many such are one.
//
//	idle ──start──▶ fetching ──done──▶ idle
//	                 │    ▲ done
//	               again  │
//	                 ▼    │
//	               fetching, another one wanted
type fetches struct {
	n       *network
	done    chan fetched
	running bool
	another bool
	// orders wait for the running fetch, later for the one after it.
	orders, later []order
}

// start begins a fetch unless one is running. o, if any, waits for it.
func (f *fetches) start(ctx context.Context, o *order) {
	if f.running {
		return
	}
	f.running = true
	if o != nil {
		f.orders = append(f.orders, *o)
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		head, err := f.n.src.Fetch(ctx)
		f.done <- fetched{head, err}
	}()
}

// again begins a fetch, or has one begun after the running one.
func (f *fetches) again(ctx context.Context, o *order) {
	if !f.running {
		f.start(ctx, o)
		return
	}
	f.another = true
	if o != nil {
		f.later = append(f.later, *o)
	}
}

// answer tells those who waited for the fetch that is done what became of it, and begins the next if somebody waits.
func (f *fetches) answer(ctx context.Context, err error) {
	for _, o := range f.orders {
		o.done <- f.n.answer(o.commit, err)
	}
	f.running, f.orders, f.later = false, f.later, nil
	if f.another {
		f.another = false
		f.start(ctx, nil)
	}
}

// wait ends with the running fetch, whose context has ended: nobody may close the clone under it.
func (f *fetches) wait() {
	if f.running {
		<-f.done
	}
}
