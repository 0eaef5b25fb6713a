package signer

import (
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// State is what one agent trusts about one zone. It is a value: every With… gives a new State or an error, and on an
// error the old one stays as it is, so whatever fails verification changes nothing (fail static). States share their
// parts; copying one is cheap.
//
//	              WithRoot (pinned)            WithTimestamp               WithManifest
//	┌───────────┐              ┌────────────┐               ┌────────────┐              ┌─────────────┐
//	│ Pinned    │─────────────▶│ Rooted     │──────────────▶│ Announced  │─────────────▶│ Current     │
//	│ no root   │              │ no manifest│               │ named, not │              │ views can be│
//	└───────────┘              └────────────┘               │ held       │              │ checked     │
//	                              │      ▲                  └────────────┘              └─────────────┘
//	                              └──────┘                     │  ▲   ▲ WithTimestamp          │  │ ▲
//	                              WithRoot (next)              └──┘   │ (higher serial)        │  └─┘ WithTimestamp
//	                                                        WithRoot, └────────────────────────┘   (same manifest),
//	                                                        WithTimestamp                          WithRoot
//
// A manifest stays in force until the next is accepted, through Announced, through expiry and through a new root: only
// Freshness tells that it is stale. What counts as newer is (root epoch, serial, issued), compared in that order:
//
//	epoch     must be the trust root's. A root that raises it makes every earlier timestamp older than any new one, which
//	          is how a network recovers after somebody with stolen keys ran the serial far ahead.
//	serial    lower is ErrRollback; equal with another manifest digest is ErrFork.
//	issued    for an equal serial, lower is ErrOlder (the newer one is kept; no alarm).
//
// A timestamp whose signers the newest root no longer counts orders nothing any more, or a thief of the timestamp key alone
// could announce a serial that nobody ever reaches, and taking the key away would not help. The manifest in force does.
type State struct {
	network, zone string
	pin           peermap.Digest
	// roots are the envelopes from the pinned root to the newest; first is the version of roots[0].
	roots [][]byte
	first uint64
	root  *Root // the newest
	// timestamp and manifest are the newest accepted; each remembers the root version it was accepted under.
	timestamp accepted[peermap.Timestamp]
	manifest  accepted[peermap.Manifest]
}

// accepted is a verified document with the envelope that proves it.
type accepted[T any] struct {
	doc      *T // nil: none yet
	envelope []byte
	digest   peermap.Digest // of the payload
	root     uint64         // version of the trust root whose quorum it met
	current  bool           // whether it also meets the quorum of the newest root
}

// NewState begins without any trust but the pin: the digest of the first root's payload.
func NewState(network, zone string, pin peermap.Digest) State {
	return State{network: network, zone: zone, pin: pin}
}

// Network and Zone are what the state was made for.
func (s State) Network() string { return s.network }

// Zone is the zone whose generations the state follows.
func (s State) Zone() string { return s.zone }

// Pin is the digest of the first trust root.
func (s State) Pin() peermap.Digest { return s.pin }

// Root is the newest accepted trust root, nil before the first. It is not to be changed.
func (s State) Root() *Root { return s.root }

// RootVersion is the version of Root; 0 before the first. The next one to fetch is RootVersion+1, or, with 0, the pinned
// one, whichever version it has.
func (s State) RootVersion() uint64 {
	if s.root == nil {
		return 0
	}
	return s.root.Version
}

// Epoch and Serial number the accepted manifest; both 0 before the first.
func (s State) Epoch() uint64 { m, _ := s.Manifest(); return m.Epoch }

// Serial numbers the accepted manifest within its epoch; 0 before the first.
func (s State) Serial() uint64 { m, _ := s.Manifest(); return m.Serial }

// Manifest is the manifest in force; false before the first.
func (s State) Manifest() (peermap.Manifest, bool) {
	if s.manifest.doc == nil {
		return peermap.Manifest{}, false
	}
	return *s.manifest.doc, true
}

// ManifestDigest is the digest of the payload of the manifest in force; zero before the first.
func (s State) ManifestDigest() peermap.Digest { return s.manifest.digest }

// Timestamp is the newest accepted timestamp; false before the first.
func (s State) Timestamp() (peermap.Timestamp, bool) {
	if s.timestamp.doc == nil {
		return peermap.Timestamp{}, false
	}
	return *s.timestamp.doc, true
}

// TimestampEnvelope and ManifestEnvelope give the signed bytes as they were accepted; nil before the first.
func (s State) TimestampEnvelope() []byte { return slices.Clone(s.timestamp.envelope) }

// ManifestEnvelope gives the signed bytes of the manifest in force; nil before the first.
func (s State) ManifestEnvelope() []byte { return slices.Clone(s.manifest.envelope) }

// Wanted gives the digest of the manifest that the newest timestamp names, and whether it must still be fetched: because
// it is another than the one in force, or because the one in force was signed by keys that no longer count.
func (s State) Wanted() (peermap.Digest, bool) {
	t := s.timestamp.doc
	if t == nil || !s.timestamp.current || t.Epoch != s.root.Epoch {
		return peermap.Digest{}, false
	}
	return t.Manifest, t.Manifest != s.manifest.digest || !s.manifest.current
}

// WithRoot accepts the pinned root if there is none yet, else the direct successor of the newest. The very root that is
// held is accepted without effect. now is not consulted: an expired root warns through Freshness, it does not stop the walk
// to its successor. Errors: those of VerifyFirstRoot and VerifyNextRoot.
func (s State) WithRoot(env []byte, now time.Time) (State, error) {
	if s.root == nil {
		r, err := VerifyFirstRoot(env, s.pin, s.network)
		if err != nil {
			return s, err
		}
		s.roots, s.first, s.root = [][]byte{slices.Clone(env)}, r.Version, r
		return s, nil
	}
	if s.holdsRoot(env) {
		return s, nil
	}
	r, err := VerifyNextRoot(s.root, env)
	if err != nil {
		return s, err
	}
	size := 0
	for _, e := range s.roots {
		size += len(e)
	}
	if (size+len(env))*4/3 > MaxStateBytes-maxStateRest {
		return s, fmt.Errorf("trust root version %d: %w: the chain from the pinned root exceeds %d bytes; pin a newer root",
			r.Version, ErrTooLarge, MaxStateBytes)
	}
	s.roots = append(slices.Clone(s.roots), slices.Clone(env))
	s.root = r
	s.timestamp.current = s.timestamp.doc != nil && stillSigned(s.timestamp.envelope, peermap.MaxTimestampBytes, r.CheckTimestamp)
	s.manifest.current = s.manifest.doc != nil && stillSigned(s.manifest.envelope, peermap.MaxManifestBytes, r.CheckManifest)
	return s, nil
}

// maxStateRest is the room a persisted state keeps for all but the root chain.
const maxStateRest = 128 << 10

// holdsRoot says whether env wraps exactly the newest root held, whoever signed it.
func (s State) holdsRoot(env []byte) bool {
	e, err := ParseEnvelope(env, peermap.MaxRootBytes)
	return err == nil && e.PayloadType == RootType && peermap.DigestOf(e.Payload) == s.root.Digest()
}

func stillSigned(env []byte, limit int, check func(*Envelope) (Quorum, error)) bool {
	e, err := ParseEnvelope(env, limit)
	if err != nil {
		return false
	}
	q, err := check(e)
	return err == nil && q.Met()
}

// WithTimestamp accepts a timestamp of this zone that the newest root's timestamp role has signed, that is neither expired
// nor from the future, and that is not older than the one held. Errors: those of Root.VerifyTimestamp, and ErrNoRoot,
// ErrWrongZone, ErrNewerRoot, ErrRollback, ErrFork, ErrOlder, ErrFuture, ErrExpired, ErrValidity.
func (s State) WithTimestamp(env []byte, now time.Time) (State, error) {
	if s.root == nil {
		return s, fmt.Errorf("timestamp of zone %s: %w", s.zone, ErrNoRoot)
	}
	t, err := s.root.VerifyTimestamp(env)
	if err != nil {
		return s, err
	}
	if t.Zone != s.zone {
		return s, fmt.Errorf("timestamp: %w: it is of %q, this is %q", ErrWrongZone, t.Zone, s.zone)
	}
	if err := s.checkOrder(t); err != nil {
		return s, err
	}
	if err := checkTimes(t, s.root.Validity.Timestamp, now); err != nil {
		return s, err
	}
	s.timestamp = accepted[peermap.Timestamp]{doc: &t, envelope: slices.Clone(env), root: s.root.Version, current: true}
	return s, nil
}

// checkOrder compares t with what was accepted before, by (epoch, serial, issued).
func (s State) checkOrder(t peermap.Timestamp) error {
	if err := s.checkEpoch("timestamp", t.Epoch); err != nil {
		return err
	}
	if err := s.checkHeld(t); err != nil {
		return err
	}
	held := s.timestamp.doc
	if held == nil || held.Epoch < t.Epoch || !s.timestamp.current {
		return nil
	}
	switch {
	case t.Serial < held.Serial:
		return fmt.Errorf("timestamp of zone %s: %w: serial %d was announced, this says %d; someone replays old state or the "+
			"controller lost its own", s.zone, ErrRollback, held.Serial, t.Serial)
	case t.Serial == held.Serial && t.Manifest != held.Manifest:
		return fmt.Errorf("timestamp of zone %s: %w: serial %d was announced as manifest %s, this says %s; two controllers "+
			"sign for one zone, or a key is stolen", s.zone, ErrFork, t.Serial, held.Manifest, t.Manifest)
	case t.Serial == held.Serial && t.Issued < held.Issued:
		return fmt.Errorf("timestamp of zone %s: %w: issued at %s, the one held at %s", s.zone, ErrOlder,
			instant(t.Issued), instant(held.Issued))
	}
	return nil
}

// checkHeld compares t with the manifest in force. The timestamp held is never behind it, so this only matters for states
// whose timestamp belongs to an earlier epoch; it costs nothing to ask always.
func (s State) checkHeld(t peermap.Timestamp) error {
	m := s.manifest.doc
	if m == nil || m.Epoch < t.Epoch {
		return nil
	}
	switch {
	case m.Epoch > t.Epoch || m.Serial > t.Serial:
		return fmt.Errorf("timestamp of zone %s: %w: generation %d.%d is in force, this says %d.%d",
			s.zone, ErrRollback, m.Epoch, m.Serial, t.Epoch, t.Serial)
	case m.Serial == t.Serial && s.manifest.digest != t.Manifest:
		return fmt.Errorf("timestamp of zone %s: %w: generation %d.%d is manifest %s, this says %s",
			s.zone, ErrFork, m.Epoch, m.Serial, s.manifest.digest, t.Manifest)
	}
	return nil
}

// checkEpoch demands the trust root's epoch.
func (s State) checkEpoch(what string, epoch uint64) error {
	switch {
	case epoch > s.root.Epoch:
		return fmt.Errorf("%s of zone %s: %w: it is of epoch %d, trust root version %d of epoch %d",
			what, s.zone, ErrNewerRoot, epoch, s.root.Version, s.root.Epoch)
	case epoch < s.root.Epoch:
		return fmt.Errorf("%s of zone %s: %w: it is of epoch %d, trust root version %d raised the epoch to %d",
			what, s.zone, ErrRollback, epoch, s.root.Version, s.root.Epoch)
	}
	return nil
}

func checkTimes(t peermap.Timestamp, validity int64, now time.Time) error {
	at := now.Unix()
	switch {
	case t.Issued > now.Add(MaxClockSkew).Unix():
		return fmt.Errorf("timestamp of zone %s: %w: issued at %s, this host's clock says %s; check the clock", t.Zone, ErrFuture,
			instant(t.Issued), instant(at))
	case t.Expires <= at:
		return fmt.Errorf("timestamp of zone %s: %w: since %s, this host's clock says %s; someone withholds newer ones, the "+
			"controller is down, or the clock is wrong", t.Zone, ErrExpired, instant(t.Expires), instant(at))
	case t.Expires-t.Issued > validity:
		return fmt.Errorf("timestamp of zone %s: %w: %d s, at most %d s", t.Zone, ErrValidity, t.Expires-t.Issued, validity)
	}
	return nil
}

// WithManifest accepts the manifest that the newest timestamp names. Errors: those of Root.VerifyManifest, and ErrNoRoot,
// ErrNoTimestamp, ErrWrongZone, ErrMismatch, ErrNewerRoot, ErrFork, ErrExpired, ErrValidity.
func (s State) WithManifest(env []byte, now time.Time) (State, error) {
	if s.root == nil {
		return s, fmt.Errorf("manifest of zone %s: %w", s.zone, ErrNoRoot)
	}
	e, err := ParseEnvelope(env, peermap.MaxManifestBytes)
	if err != nil {
		return s, fmt.Errorf("manifest of zone %s: %w", s.zone, err)
	}
	m, err := s.root.openManifest(e)
	if err != nil {
		return s, err
	}
	if m.Zone != s.zone {
		return s, fmt.Errorf("manifest: %w: it is of %q, this is %q", ErrWrongZone, m.Zone, s.zone)
	}
	digest := peermap.DigestOf(e.Payload)
	if err := s.checkNamed(m, digest, now); err != nil {
		return s, err
	}
	if err := s.checkContinues(m); err != nil {
		return s, err
	}
	s.manifest = accepted[peermap.Manifest]{doc: &m, envelope: slices.Clone(env), digest: digest, root: s.root.Version, current: true}
	return s, nil
}

// checkNamed demands that a timestamp still good names exactly this manifest, and that the manifest is alive.
func (s State) checkNamed(m peermap.Manifest, digest peermap.Digest, now time.Time) error {
	if err := s.checkEpoch("manifest", m.Epoch); err != nil {
		return err
	}
	t := s.timestamp.doc
	if t == nil || !s.timestamp.current || t.Epoch != s.root.Epoch {
		return fmt.Errorf("manifest %d.%d of zone %s: %w; fetch a timestamp first", m.Epoch, m.Serial, s.zone, ErrNoTimestamp)
	}
	if t.Manifest != digest {
		return fmt.Errorf("manifest %d.%d of zone %s: %w: the timestamp names %s (%d.%d), this is %s",
			m.Epoch, m.Serial, s.zone, ErrMismatch, t.Manifest, t.Epoch, t.Serial, digest)
	}
	if t.Epoch != m.Epoch || t.Serial != m.Serial {
		return fmt.Errorf("manifest %d.%d of zone %s: %w: the timestamp calls it %d.%d",
			m.Epoch, m.Serial, s.zone, ErrMismatch, t.Epoch, t.Serial)
	}
	if m.RootVersion > s.root.Version {
		return fmt.Errorf("manifest %d.%d of zone %s: %w: it was made under version %d, version %d is held",
			m.Epoch, m.Serial, s.zone, ErrNewerRoot, m.RootVersion, s.root.Version)
	}
	if err := checkTimes(*t, s.root.Validity.Timestamp, now); err != nil {
		return err
	}
	at := now.Unix()
	if m.Expires <= at {
		return fmt.Errorf("manifest %d.%d of zone %s: %w: since %s, this host's clock says %s", m.Epoch, m.Serial, s.zone,
			ErrExpired, instant(m.Expires), instant(at))
	}
	if longest := now.Add(MaxClockSkew).Unix() + s.root.Validity.Manifest; m.Expires > longest {
		return fmt.Errorf("manifest %d.%d of zone %s: %w: until %s, at most %d s from now", m.Epoch, m.Serial, s.zone,
			ErrValidity, instant(m.Expires), s.root.Validity.Manifest)
	}
	return nil
}

// checkContinues demands that a direct successor names the manifest in force as the one before it. Over a gap the chain
// cannot be seen; the timestamp's order has to do there.
func (s State) checkContinues(m peermap.Manifest) error {
	old := s.manifest.doc
	if old == nil || old.Epoch != m.Epoch || old.Serial+1 != m.Serial || m.Previous == s.manifest.digest {
		return nil
	}
	return fmt.Errorf("manifest %d.%d of zone %s: %w: it continues %s, in force is %s", m.Epoch, m.Serial, s.zone, ErrFork,
		m.Previous, s.manifest.digest)
}

// CheckView says whether view is leaf index of size of the manifest in force. It does not say whose view it is:
// CheckNodeView does. Errors: ErrNoManifest, ErrTooLarge, ErrProof.
func (s State) CheckView(index, size uint64, view []byte, proof []peermap.Digest) error {
	m := s.manifest.doc
	if m == nil {
		return fmt.Errorf("view of zone %s: %w", s.zone, ErrNoManifest)
	}
	if len(view) > peermap.MaxViewBytes || len(proof) > peermap.MaxProofHashes {
		return fmt.Errorf("view of zone %s: %w: %d bytes and %d proof hashes, at most %d and %d", s.zone, ErrTooLarge,
			len(view), len(proof), peermap.MaxViewBytes, peermap.MaxProofHashes)
	}
	if size != m.Views {
		return fmt.Errorf("view of zone %s: %w: the proof is for %d views, generation %d.%d has %d", s.zone, ErrProof,
			size, m.Epoch, m.Serial, m.Views)
	}
	if err := peermap.VerifyInclusion(m.ViewsRoot, index, size, view, proof); err != nil {
		return fmt.Errorf("view of zone %s, generation %d.%d: %w", s.zone, m.Epoch, m.Serial, err)
	}
	return nil
}

// CheckNodeView is CheckView for the view of one node: a view that is part of the generation but another node's, or of
// another zone or network, is refused. Errors: those of CheckView, and ErrFormat, ErrWrongNode, ErrWrongZone,
// ErrWrongNetwork.
func (s State) CheckNodeView(node string, index, size uint64, view []byte, proof []peermap.Digest) (peermap.View, error) {
	if err := s.CheckView(index, size, view, proof); err != nil {
		return peermap.View{}, err
	}
	v, err := peermap.DecodeView(view)
	switch {
	case err != nil:
		err = fmt.Errorf("view of zone %s: %w: %w", s.zone, ErrFormat, err)
	case v.Network != s.network:
		err = fmt.Errorf("view: %w: it is of %q, this is %q", ErrWrongNetwork, v.Network, s.network)
	case v.Zone != s.zone:
		err = fmt.Errorf("view: %w: it is of %q, this is %q", ErrWrongZone, v.Zone, s.zone)
	case v.Node != node:
		err = fmt.Errorf("view: %w: it is of %q, this is %q", ErrWrongNode, v.Node, node)
	}
	if err != nil {
		return peermap.View{}, err
	}
	return v, nil
}

func instant(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
