package witness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// Recheck judges what a binding rests on from its evidence alone: that it is the one which the binding names, the token by the keys that its issuer shows now, the
// rule at the commit, the maintainer's word. It gives the bindings that it leans on, the oldest first. An error that wraps
// ErrLater says nothing about the binding; any other refuses it. It is called by several goroutines at once. enrol.Judge is
// the real one.
type Recheck func(ctx context.Context, at Commit, record protocol.BindingRecord) (past []*binding.Signed, err error)

// Commit is what the witness arrived at by itself.
type Commit struct {
	ID   string
	Repo *spec.Repository
	Root *signer.Root
	// Judged reports that the binding with this digest was found good before.
	Judged func(peermap.Digest) bool
}

// ErrLater says that evidence could not be judged now, because a provider does not answer: it is tried again.
var ErrLater = errors.New("the evidence cannot be judged now")

// errInquiring says that evidence is being judged in the background.
var errInquiring = errors.New("evidence is being judged")

// inquiryTimeout bounds one inquiry, recheckTimeout all that waits for one issuer in it: a provider that hangs.
const (
	inquiryTimeout = 2 * time.Minute
	recheckTimeout = 15 * time.Second
)

// inquiry judges bindings that are new to the witness. It runs beside the rest, one for each zone at most, so that a
// provider that hangs keeps nobody from the generations that it has no part in.
//
//	none ──new bindings──▶ running ──▶ done: all good ──▶ remembered
//	                                    ├─ some refused ──▶ the generation is refused, naming them
//	                                    └─ no answer ─────▶ tried again; the controller is told which, and may go on without them
type inquiry struct {
	asked map[peermap.Digest]bool
	stop  context.CancelFunc
	done  chan struct{}
	// What came of it, to be read when done is closed.
	good []*judged
	bad  []unfit
	err  error // the controller did not answer
}

// bindings gives those that the manifest's list names, all judged good, or nil if it names none. The error is a refusal,
// errInquiring, or what may go away.
func (w *witness) bindings(
	ctx context.Context, m peermap.Manifest, last *signed, l *build.Loaded, root *signer.Root,
) (out []*binding.Signed, list []byte, err error) {
	if m.Bindings == (peermap.Digest{}) {
		return nil, nil, nil
	}
	list, entries, err := w.list(ctx, m, last)
	if err != nil {
		return nil, nil, err
	}
	if unknown := w.unknown(entries); len(unknown) > 0 {
		if err := w.hear(m.Zone, entries, unknown, last); err != nil {
			return nil, nil, err
		}
		if unknown = w.unknown(entries); len(unknown) > 0 {
			w.inquire(ctx, m, unknown, Commit{ID: l.Commit, Repo: l.Repo, Root: root, Judged: w.memory.before()})
			return nil, nil, errInquiring
		}
	}
	out = make([]*binding.Signed, 0, len(entries))
	for _, e := range entries {
		s := w.memory.judged[e.Digest].Signed
		if s.Binding.Network != m.Network || s.Binding.Zone != m.Zone || s.Binding.Node != e.Node {
			return nil, nil, refuseBinding(e.Digest, "binding %s is of node %s of zone %s, not of %s of zone %s",
				e.Digest, s.Binding.Node, s.Binding.Zone, e.Node, m.Zone)
		}
		if w.memory.under[e.Digest] != root.Version {
			if err := checkSigned(root, s.Envelope); err != nil {
				return nil, nil, refuseBinding(e.Digest, "binding %s of node %s: %w", e.Digest, e.Node, err)
			}
			w.memory.under[e.Digest] = root.Version
		}
		out = append(out, s)
	}
	return out, list, nil
}

// unknown are the entries that were not judged yet.
func (w *witness) unknown(entries []binding.Entry) []peermap.Digest {
	var out []peermap.Digest
	for _, e := range entries {
		if _, ok := w.memory.judged[e.Digest]; !ok {
			out = append(out, e.Digest)
		}
	}
	return out
}

// list fetches the list that a manifest names.
func (w *witness) list(ctx context.Context, m peermap.Manifest, last *signed) ([]byte, []binding.Entry, error) {
	var list []byte
	var err error
	if last != nil && peermap.DigestOf([]byte(last.List)) == m.Bindings {
		list = []byte(last.List)
	} else if list, err = w.getList(ctx, m.Zone, m.Bindings); err != nil {
		return nil, nil, err
	}
	if peermap.DigestOf(list) != m.Bindings {
		return nil, nil, refusef("the list of bindings is not the one that the manifest names")
	}
	entries, err := binding.ParseList(list)
	if err != nil {
		return nil, nil, refusef("the list of bindings: %w", err)
	}
	return list, entries, nil
}

// hear takes over what came of the zone's inquiry if it is done, and forgets what nobody asks about any more. One that is
// about nothing that is asked for now is ended.
func (w *witness) hear(zone string, entries []binding.Entry, unknown []peermap.Digest, last *signed) error {
	q, ok := w.inquiries[zone]
	if !ok {
		return nil
	}
	select {
	case <-q.done:
	default:
		if slices.ContainsFunc(unknown, func(d peermap.Digest) bool { return q.asked[d] }) {
			return errInquiring
		}
		q.stop()
		delete(w.inquiries, zone)
		return nil
	}
	delete(w.inquiries, zone)
	for _, s := range q.good {
		if err := w.memory.keep(s); err != nil {
			return err
		}
	}
	wanted := last.bindings()
	for _, e := range entries {
		wanted[e.Digest] = true
	}
	if err := w.memory.forget(zone, wanted); err != nil {
		return err
	}
	if err := verdict(q.bad, wanted); err != nil {
		return err
	}
	return q.err
}

// verdict says what those mean that were not found good, of those that are still wanted.
func verdict(bad []unfit, wanted map[peermap.Digest]bool) error {
	var refused, later []peermap.Digest
	var why, wait *unfit // the first of each
	for i := range bad {
		u := &bad[i]
		switch {
		case !wanted[u.digest]: // of a list that is no longer asked about
		case u.later:
			later, wait = append(later, u.digest), cmp.Or(wait, u)
		default:
			refused, why = append(refused, u.digest), cmp.Or(why, u)
		}
	}
	switch {
	case why != nil:
		return &refusal{why, refused}
	case wait != nil:
		return &postponed{wait, later}
	}
	return nil
}

// unfit is a binding that was judged bad, or (later) could not be judged.
type unfit struct {
	digest peermap.Digest
	err    error
	later  bool
}

func (u *unfit) Error() string { return fmt.Sprintf("binding %s: %v", u.digest, u.err) }

// Unwrap gives the cause.
func (u *unfit) Unwrap() error { return u.err }

// inquire begins to judge bindings in the background.
func (w *witness) inquire(ctx context.Context, m peermap.Manifest, unknown []peermap.Digest, at Commit) {
	ctx, cancel := context.WithTimeout(ctx, inquiryTimeout)
	q := &inquiry{asked: map[peermap.Digest]bool{}, stop: cancel, done: make(chan struct{})}
	for _, d := range unknown {
		q.asked[d] = true
	}
	w.inquiries[m.Zone] = q
	w.running.Go(func() {
		defer cancel()
		q.good, q.bad, q.err = w.judgeBindings(ctx, m, unknown, at)
		close(q.done)
		select {
		case w.heard <- struct{}{}:
		default:
		}
	})
}

// judgeBindings judges bindings by their evidence. Those of an issuer whose provider takes too long altogether are left for
// later, so that it costs only its own. The error is of the controller; what was judged before it counts.
func (w *witness) judgeBindings(
	ctx context.Context, m peermap.Manifest, unknown []peermap.Digest, at Commit,
) (good []*judged, bad []unfit, err error) {
	slow := map[string]time.Duration{} // by issuer: what was spent on answers that were not prompt
	for len(unknown) > 0 {
		asked := unknown[:min(len(unknown), protocol.MaxBindingsAsked)]
		records, err := w.getRecords(ctx, asked)
		if err != nil {
			return good, bad, err
		}
		given := map[peermap.Digest]protocol.BindingRecord{}
		for _, r := range records {
			if s, err := parseSigned(r.Envelope); err == nil {
				given[s.Digest] = r
			}
		}
		// What the controller does not have it leaves out; what is more than an answer holds it leaves off the end.
		end := len(asked)
		for end > 1 && !has(given, asked[end-1]) {
			end--
		}
		for _, d := range asked[:end] {
			s, u := w.judgeBinding(ctx, m, d, given, at, slow)
			if u != nil {
				bad = append(bad, *u)
				continue
			}
			good = append(good, s)
		}
		unknown = unknown[end:]
	}
	return good, bad, nil
}

func has(given map[peermap.Digest]protocol.BindingRecord, d peermap.Digest) bool {
	_, ok := given[d]
	return ok
}

// prompt is how long an answer may take that does not count towards the Patience with its issuer.
const prompt = time.Second

func (w *witness) judgeBinding(
	ctx context.Context, m peermap.Manifest, want peermap.Digest, given map[peermap.Digest]protocol.BindingRecord, at Commit,
	slow map[string]time.Duration,
) (*judged, *unfit) {
	no := func(err error) (*judged, *unfit) { return nil, &unfit{digest: want, err: err} }
	r, ok := given[want]
	if !ok {
		return no(errors.New("the controller has no evidence for it, or gives another's"))
	}
	s, err := parseSigned(r.Envelope)
	if err != nil {
		return no(err)
	}
	if s.Binding.Network != m.Network || s.Binding.Zone != m.Zone {
		return no(fmt.Errorf("it is of zone %s of network %s", s.Binding.Zone, s.Binding.Network))
	}
	if err := checkSigned(at.Root, r.Envelope); err != nil {
		return no(err)
	}
	if w.Recheck == nil {
		return no(errors.New("this witness has no way to judge enrolments"))
	}
	issuer := s.Binding.Identity.URL
	left := w.Patience - slow[issuer]
	if left <= 0 {
		return nil, &unfit{want, fmt.Errorf("node %s: issuer %s: %w", s.Binding.Node, s.Binding.Identity.Issuer, ErrLater), true}
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	began := time.Now()
	past, err := w.Recheck(ctx, at, r)
	if took := time.Since(began); took > prompt {
		slow[issuer] += took
	}
	switch {
	case err == nil:
		return &judged{s, past}, nil
	case errors.Is(err, ErrLater) || ctx.Err() != nil:
		return nil, &unfit{want, fmt.Errorf("node %s: %w", s.Binding.Node, err), true}
	}
	return no(fmt.Errorf("node %s: %w", s.Binding.Node, err))
}

// parseSigned reads an envelope without checking its signatures.
func parseSigned(envelope []byte) (*binding.Signed, error) {
	env, err := signer.ParseEnvelope(envelope, binding.MaxEnvelopeBytes)
	if err != nil {
		return nil, err
	}
	if env.PayloadType != binding.Type {
		return nil, fmt.Errorf("it is of type %.60q", env.PayloadType)
	}
	return binding.NewSigned(env.Payload, envelope)
}

func checkSigned(root *signer.Root, envelope []byte) error {
	env, err := signer.ParseEnvelope(envelope, binding.MaxEnvelopeBytes)
	if err != nil {
		return err
	}
	return root.CheckBinding(env)
}

// bindings are the digests of the list that was signed last.
func (s *signed) bindings() map[peermap.Digest]bool {
	out := map[peermap.Digest]bool{}
	for _, e := range s.entries() {
		out[e.Digest] = true
	}
	return out
}

// entries are the lines of the list that was signed last.
func (s *signed) entries() []binding.Entry {
	if s == nil || s.List == "" {
		return nil
	}
	entries, err := binding.ParseList([]byte(s.List))
	if err != nil {
		return nil // it was parsed before it was kept
	}
	return entries
}

// members tells the nodes that were signed last apart.
func (s *signed) members() build.Members {
	enrolled := map[string]bool{}
	for _, e := range s.entries() {
		enrolled[e.Node] = true
	}
	var m build.Members
	for _, n := range s.Nodes {
		if enrolled[n] {
			m.Enrolled = append(m.Enrolled, n)
		} else {
			m.Static = append(m.Static, n)
		}
	}
	return m
}

// known gives those of the last list that are remembered.
func (w *witness) known(last *signed) []*binding.Signed {
	var out []*binding.Signed
	for _, e := range last.entries() {
		if s, ok := w.memory.judged[e.Digest]; ok {
			out = append(out, s.Signed)
		}
	}
	return slices.Clip(out)
}
