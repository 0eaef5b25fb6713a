package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// ErrNotPending says that a co-signature is for a generation that does not wait for it (any more). ErrNotWitness says that
// the signer's key has no say in it.
var (
	ErrNotPending = errors.New("generation is not pending")
	ErrNotWitness = errors.New("key may not sign generations")
)

// idleMaintenance is when to look again if nothing is published yet.
const idleMaintenance = time.Minute

// Maintain re-signs what needs it: timestamps after a third of their life, manifests when a third is left, and whatever
// the newest trust root no longer accepts. It gives how long to wait before the next call. A zone that fails keeps what
// it serves; the error names it.
func (p *Publisher) Maintain(ctx context.Context) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root == nil || p.mayWrite() != nil {
		return idleMaintenance, nil
	}
	var errs []error
	changed := false
	for _, z := range p.Zones() {
		before := z.pendingGeneration()
		err := p.maintain(ctx, z)
		z.setStale(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("zone %s: %w", z.Name, err))
		}
		if after := z.pendingGeneration(); after != nil && (before == nil || after.gen.Digest != before.gen.Digest) {
			changed = true
		}
	}
	if changed {
		p.announcePending()
	}
	return max(p.third(p.root.Validity.Timestamp)/4, 100*time.Millisecond), errors.Join(errs...)
}

// maintain retries what could not be settled, and refreshes what is served.
func (p *Publisher) maintain(ctx context.Context, z *Zone) error {
	if w := z.pendingGeneration(); w != nil {
		if err := p.settle(z, w); err != nil {
			return err
		}
	}
	return p.refresh(ctx, z)
}

func (p *Publisher) third(validity int64) time.Duration {
	return time.Duration(validity) * time.Second / 3
}

// liveFor is how long a manifest still lives.
func (p *Publisher) liveFor(g *Generation) time.Duration {
	return time.Unix(g.Manifest.Expires, 0).Sub(p.opts.Now())
}

// refresh re-signs the current generation of z as far as that is due.
func (p *Publisher) refresh(ctx context.Context, z *Zone) error {
	s, _ := z.Snapshot()
	if s == nil {
		return nil
	}
	if err := p.recall(ctx, z); err != nil {
		return err
	}
	if z.behind || p.manifestDue(s.Generation) || z.isSuspended() && !s.Manifest.Suspended {
		if w := z.pendingGeneration(); w == nil || p.liveFor(w.gen) <= 0 {
			if err := p.renew(ctx, z, s.Generation); err != nil {
				return err
			}
			s, _ = z.Snapshot()
		}
	}
	if z.behind || !p.stampDue(s) {
		return nil
	}
	stamp, err := p.stamp(s.Generation)
	if err != nil {
		return err
	}
	if err := p.handOld(z, s.Generation, stamp); err != nil {
		return err
	}
	next := *s
	next.Timestamp, next.Stamp = stamp.envelope, stamp.payload
	z.serve(&next)
	return nil
}

// manifestDue says whether a manifest nears its end, or the trust root has moved on from its signatures or its epoch.
func (p *Publisher) manifestDue(g *Generation) bool {
	if g.Manifest.Epoch != p.root.Epoch || p.liveFor(g) < p.third(p.root.Validity.Manifest) {
		return true
	}
	env, err := signer.ParseEnvelope(g.Envelope, peermap.MaxManifestBytes)
	if err != nil {
		return true
	}
	q, err := p.root.CheckManifest(env)
	return err != nil || !q.Met()
}

// renew signs the content of g under the next number. Nothing in it changes for agents but the signature, and whether they
// are told that the zone is frozen.
func (p *Publisher) renew(ctx context.Context, z *Zone, g *Generation) error {
	return p.propose(ctx, z, g.content, func(epoch, serial uint64, previous peermap.Digest, expires time.Time) peermap.Manifest {
		m := g.Manifest
		m.Epoch, m.Serial, m.Previous, m.Expires, m.Suspended = epoch, serial, previous, expires.Unix(), z.isSuspended()
		return m
	})
}

func (p *Publisher) stampDue(s *Snapshot) bool {
	if s.Timestamp == nil || s.Stamp.Manifest != s.Digest {
		return true
	}
	age := p.opts.Now().Sub(time.Unix(s.Stamp.Issued, 0))
	if age < 0 || age >= p.third(p.root.Validity.Timestamp) {
		return true
	}
	env, err := signer.ParseEnvelope(s.Timestamp, peermap.MaxTimestampBytes)
	if err != nil {
		return true
	}
	q, err := p.root.CheckTimestamp(env)
	return err != nil || !q.Met()
}

// stamp states that g is current, from now on.
func (p *Publisher) stamp(g *Generation) (*signedStamp, error) {
	now := p.opts.Now()
	t := peermap.Timestamp{
		Type: peermap.TimestampType, Network: p.opts.Network, Zone: g.Manifest.Zone, Epoch: g.Manifest.Epoch, Serial: g.Manifest.Serial,
		Manifest: g.Digest, Issued: now.Unix(), Expires: now.Unix() + p.root.Validity.Timestamp,
	}
	payload, err := t.Encode()
	if err != nil {
		return nil, err
	}
	env, err := p.sign(peermap.TimestampType, payload, p.keys.Timestamp, signer.RoleTimestamp)
	if err != nil {
		return nil, err
	}
	q, err := p.root.CheckTimestamp(env)
	if err == nil {
		err = q.Err()
	}
	if err != nil {
		return nil, err
	}
	b, err := env.Encode()
	if err != nil {
		return nil, err
	}
	return &signedStamp{envelope: b, payload: t}, nil
}

// Pending lists the generations that wait for signatures, by zone, and gives a channel that is closed when the list
// changes.
func (p *Publisher) Pending() ([]Pending, <-chan struct{}) {
	p.view.RLock()
	changed := p.waiting
	p.view.RUnlock()
	var out []Pending
	for _, z := range p.Zones() {
		if w := z.State().Pending; w != nil {
			out = append(out, *w)
		}
	}
	return out, changed
}

// announcePending wakes those who wait for the list of pending generations.
func (p *Publisher) announcePending() {
	p.view.Lock()
	defer p.view.Unlock()
	close(p.waiting)
	p.waiting = make(chan struct{})
}

// Cosign adds a signature, or the ID token of a witness identity, to a pending generation and publishes it once there are
// enough. Errors: ErrNotPending, ErrNotWitness, signer.ErrTooLarge, and those of signer.Root.CheckManifest.
func (p *Publisher) Cosign(zone string, digest peermap.Digest, keyID string, sig []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	z, w, err := p.findPending(zone, digest, keyID)
	if err != nil {
		return err
	}
	env := signer.NewEnvelope(w.env.PayloadType, w.env.Payload)
	for _, s := range w.env.Signatures {
		if s.KeyID < keyID {
			env.Signatures = append(env.Signatures, s)
		}
	}
	env.Signatures = append(env.Signatures, signer.Signature{KeyID: keyID, Sig: sig})
	for _, s := range w.env.Signatures {
		if s.KeyID > keyID {
			env.Signatures = append(env.Signatures, s)
		}
	}
	if _, err := p.root.CheckManifest(env); err != nil {
		return err
	}
	if whole, err := env.Encode(); err != nil || len(whole) > peermap.MaxManifestBytes {
		return errors.Join(err, fmt.Errorf("co-signature of zone %s: %w: with it the manifest has %d bytes, agents read %d",
			zone, signer.ErrTooLarge, len(whole), peermap.MaxManifestBytes))
	}
	signed := *w
	signed.env = env
	err = p.settle(z, &signed)
	z.setProblem(err)
	p.announcePending()
	return err
}

// Refusal is why a witness does not sign.
type Refusal struct {
	Why string
	// Bindings are those without which it may. Later says that it only cannot judge them yet.
	Bindings []peermap.Digest
	Later    bool
}

// Refuse records why a witness will not sign, for people to see, and for those who can leave bindings out.
func (p *Publisher) Refuse(zone string, digest peermap.Digest, keyID string, r Refusal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	z, w, err := p.findPending(zone, digest, keyID)
	if err != nil {
		return err
	}
	name, _ := p.root.SignerName(keyID)
	next := *w
	next.refusals = maps.Clone(w.refusals)
	next.refusals[name] = r
	z.setPending(&next)
	p.announcePending()
	return nil
}

func (p *Publisher) findPending(zone string, digest peermap.Digest, keyID string) (*Zone, *waiting, error) {
	z, ok := p.Zone(zone)
	if !ok || p.root == nil {
		return nil, nil, fmt.Errorf("zone %s: %w", zone, ErrNotPending)
	}
	if !p.root.HasRole(keyID, signer.RoleWitnesses) && !p.root.HasRole(keyID, signer.RoleManifest) {
		return nil, nil, fmt.Errorf("key %.16s: %w", keyID, ErrNotWitness)
	}
	w := z.pendingGeneration()
	if w == nil || w.gen.Digest != digest {
		return nil, nil, fmt.Errorf("zone %s, manifest %s: %w", zone, digest, ErrNotPending)
	}
	return z, w, nil
}
