package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// holding is which of the host's keys a zone uses while a rotation is under way.
type holding struct {
	mu sync.Mutex
	// identity is the public key of the pair whose identity proves requests; zero: the one in force.
	identity peermap.Key
	// applied is the WireGuard key that the host runs with, zero before the first generation.
	applied peermap.Key
	// tried says that the other identity has been tried since a controller accepted one.
	tried bool
}

// identity is the key that proves the next request.
func (z *zone) identity() signer.PrivateKey {
	z.holding.mu.Lock()
	chosen := z.holding.identity
	z.holding.mu.Unlock()
	if next, ok := z.opt.Keys.Next(z.name); ok && next.Identity.Raw() == chosen {
		return next.Identity
	}
	return z.opt.Keys.Current(z.name).Identity
}

// otherIdentity turns to the other of the two identity keys after one was refused; false if there is none, or if it was
// tried already: during a rotation the controller knows one of them, and this host cannot always tell which.
func (z *zone) otherIdentity() bool {
	next, ok := z.opt.Keys.Next(z.name)
	if !ok {
		return false
	}
	current := z.opt.Keys.Current(z.name).Identity.Raw()
	z.holding.mu.Lock()
	defer z.holding.mu.Unlock()
	if z.holding.tried {
		return false
	}
	z.holding.tried = true
	if z.holding.identity == next.Identity.Raw() {
		z.holding.identity = current
	} else {
		z.holding.identity = next.Identity.Raw()
	}
	return true
}

// runsWith notes the WireGuard key of the generation that the host is in. Its identity key goes with it.
func (z *zone) runsWith(pair keys.Pair) {
	wireguard, identity := pair.Public()
	z.holding.mu.Lock()
	defer z.holding.mu.Unlock()
	if z.holding.applied == wireguard {
		return
	}
	z.holding.applied, z.holding.identity, z.holding.tried = wireguard, identity, false
	poke(z.changed) // the report proves the identity key
}

// proven notes that a controller accepted an identity key. The old keys are given up when the host runs with the next
// WireGuard key and a controller has accepted the next identity key, and not before: where a person puts keys into git, one of
// the two may be forgotten.
func (z *zone) proven(identity peermap.Key) {
	z.holding.mu.Lock()
	z.holding.tried = false
	applied := z.holding.applied
	z.holding.mu.Unlock()
	next, ok := z.opt.Keys.Next(z.name)
	if !ok {
		return
	}
	if wireguard, own := next.Public(); own != identity || wireguard != applied {
		return
	}
	z.promoted(z.opt.Keys.InForce(z.name, applied))
}

// promoted tells of the end of a rotation.
func (z *zone) promoted(done bool, err error) {
	switch {
	case err != nil:
		z.log.Error("the next keys are in force but cannot take the place of the old files; trying again later", "error", err)
	case done:
		z.log.Info("key rotation done; the old keys are gone")
		poke(z.changed)
	}
}

// idle says whether this zone uses none of the host's keys: nobody has joined it, nothing is on its way, and the host carries
// nothing of it. Where keys stand in git they are in use, also before the first generation.
func (z *zone) idle() bool {
	select {
	case <-z.booted:
	default:
		return false // what the host carries is not known yet
	}
	m := z.member.Snapshot()
	_, carries := z.engine.Confirmed()
	return m.Involved && m.Binding == nil && m.WaitingID == "" && !m.Busy && !carries && !z.standing.current().Complete()
}

// noteUse tells the ring whether the zone uses keys. It runs whenever that may have changed, and before an exchange takes any.
func (z *zone) noteUse() {
	z.using.Lock()
	defer z.using.Unlock()
	z.promoted(z.opt.Keys.Idle(z.name, z.idle()))
}

// enrolOptions makes the zone's enrolment.
func (z *zone) enrolOptions(config ZoneConfig, env environment) enrol.Options {
	t := z.opt.Times
	return enrol.Options{
		Network: z.opt.Config.Network, Zone: z.name, Node: z.opt.Config.Node,
		Configured: config.Join != nil, Ask: config.Join.ask(), Expect: config.Join.expect(), Ephemeral: config.Join != nil && config.Join.Ephemeral,
		Source: config.Join.source(env.oidc, z.log), Controller: z.client, Keys: z.opt.Keys, Root: z.newestRoot,
		Records: z.store, OIDC: env.oidc, Now: z.now, Logger: z.log,
		Times: enrol.Times{
			RetryMin: t.EnrolMin, RetryMax: t.EnrolMax, Tick: t.Tick, Patience: t.Patience, Farewell: t.Farewell,
		},
		Changed: func() { poke(z.changed); z.noteUse(); z.judge() },
		Bound:   func() { poke(z.hurry); poke(z.offered) },
	}
}

// newestRoot walks along the trust roots, which a host may do before it is a member, and gives the newest. The one that is
// held will do if the controller has died since it answered: a binding must not be lost for that.
func (z *zone) newestRoot(ctx context.Context) (*signer.Root, error) {
	err := z.follower.Roots(ctx)
	root := z.follower.Current().State.Root()
	switch {
	case root != nil && (err == nil || errors.Is(err, fetch.ErrUnreachable)):
		return root, nil
	case err == nil:
		err = follow.ErrNotReady
	}
	return nil, err
}

// depart takes everything of ours from the host, after a person has taken it out of the zone. What was seen stays.
func (z *zone) depart(ctx context.Context) error {
	if _, confirmed := z.engine.Confirmed(); !confirmed && !z.standing.current().Complete() {
		return nil
	}
	if _, err := z.engine.Down(ctx); err != nil {
		return err
	}
	if err := z.store.Remove(appliedRecord); err != nil {
		return err
	}
	z.follower.Forget()
	z.standing.confirm(follow.Trusted{}, z.now())
	z.noteUse()
	z.log.Info("this host has left the zone")
	poke(z.changed)
	return nil
}

// judgeEnrolment sets the conditions that follow from how the enrolment stands; it runs under the lock.
func (s *standing) judgeEnrolment(e enrol.Snapshot, now time.Time) {
	set := func(kind string, on bool, reason, message string) {
		if !on {
			s.conditions.Clear(kind, now)
			return
		}
		s.conditions.Set(kind, true, reason, explain(errors.New(message)), now)
	}
	needed, reason := "Nobody has joined this host to the zone: run `apex join` on it.", "NoIdentity"
	if e.Lost {
		needed, reason = "The controller does not know this host's binding any more: run `apex join` on it.", "Lost"
	}
	switch {
	case e.Left:
		needed, reason = "A person took this host out of the zone; `apex join` takes it in again.", "Left"
	case e.Message != "":
		needed, reason = "Run `apex join` on this host; the last attempt: "+e.Message, e.Reason
	}
	person := e.Stage == control.Unbound || (e.Stage == control.Expired || e.Lost) && !e.Automatic
	set(status.EnrolmentNeeded, e.Involved && person, reason, needed)
	set(status.AwaitingApproval, e.WaitingID != "", "Review",
		"A maintainer has to approve this host: `apex enrol approve "+e.WaitingID+"`.")
	set(status.EnrolmentFailing, e.Involved && e.Message != "" && !e.Left, e.Reason, e.Message)
	expires, how := "", "It is not renewed by itself: run `apex join` on this host."
	if e.Binding != nil {
		expires = time.Unix(e.Binding.Expires, 0).UTC().Format(time.RFC3339)
	}
	if e.Automatic {
		how = "Renewing it fails: " + e.Message
	}
	set(status.EnrolmentExpiring, e.Stage == control.Expiring, "ExpiresSoon", "The binding runs out at "+expires+". "+how)
	set(status.EnrolmentExpired, e.Binding != nil && e.Stage == control.Expired, "Expired",
		"The binding ran out at "+expires+"; peers have dropped this host. "+how)
}

// controls is what the host's own person may ask of an Agent.
type controls struct{ a *Agent }

func (c controls) zone(name string) (*zone, error) {
	var names []string
	for _, z := range c.a.zones {
		if z.name == name || name == "" && len(c.a.zones) == 1 {
			return z, nil
		}
		names = append(names, z.name)
	}
	return nil, fmt.Errorf("%w: %q; it is configured for %q", control.ErrNoZone, name, names)
}

// Enrolment says how a zone stands, and how to join it.
func (c controls) Enrolment(ctx context.Context, zone string) (control.Enrolment, error) {
	z, err := c.zone(zone)
	if err != nil {
		return control.Enrolment{}, err
	}
	return z.member.Enrolment(ctx, true), nil
}

// Join enrols a zone with a token.
func (c controls) Join(ctx context.Context, join control.Join) (control.Enrolment, error) {
	z, err := c.zone(join.Zone)
	if err == nil {
		err = unanswered(z.member.Join(ctx, join))
	}
	if err != nil {
		return control.Enrolment{}, err
	}
	return z.member.Enrolment(ctx, false), nil
}

// unanswered gives an error that is no controller's answer the code that says so: whoever asked may ask again.
func unanswered(err error) error {
	var problem *protocol.Problem
	if errors.As(err, &problem) || !errors.Is(err, fetch.ErrUnreachable) && !errors.Is(err, fetch.ErrSlow) {
		return err
	}
	return protocol.NewProblem(http.StatusBadGateway, protocol.CodeUnreachable, err.Error())
}

// Leave takes the host out of a zone.
func (c controls) Leave(ctx context.Context, zone string) (control.Enrolment, error) {
	z, err := c.zone(zone)
	if err == nil {
		err = z.member.Leave(ctx)
	}
	if err != nil {
		return control.Enrolment{}, err
	}
	poke(z.offered) // the host loop takes everything away
	return z.member.Enrolment(ctx, false), nil
}

// Rotate begins a rotation of the host's keys, or goes on with the one under way: in every zone of the host, because the
// identity key is one for all of them.
func (c controls) Rotate(ctx context.Context, zone string) (control.Rotation, error) {
	if _, err := c.zone(zone); err != nil {
		return control.Rotation{}, err
	}
	for _, z := range c.a.zones {
		z.noteUse()
	}
	if err := c.a.opt.Keys.Begin(); err != nil {
		return control.Rotation{}, err
	}
	for _, z := range c.a.zones {
		if _, err := z.member.Rotate(ctx); err != nil {
			return control.Rotation{}, fmt.Errorf("zone %s: %w", z.name, unanswered(err))
		}
	}
	return c.Rotation(ctx, zone)
}

// Rotation says how a rotation stands.
func (c controls) Rotation(_ context.Context, zone string) (control.Rotation, error) {
	z, err := c.zone(zone)
	if err != nil {
		return control.Rotation{}, err
	}
	ring := c.a.opt.Keys
	next, underWay := ring.Next(z.name)
	if !underWay {
		next = ring.Current(z.name)
	}
	out := control.Rotation{Zones: ring.Zones(), Static: []string{}, Done: !underWay}
	out.PublicKey, out.IdentityKey = next.Public()
	out.Enrolled = true
	waits := ""
	for _, z := range c.a.zones {
		if z.idle() {
			continue
		}
		pair, ok := ring.Next(z.name)
		if !ok {
			pair = ring.Current(z.name)
		}
		wireguard, _ := pair.Public()
		bound, _, isBound := z.member.Public()
		if m := z.member.Snapshot(); !isBound && m.Involved && !z.standing.current().Complete() {
			waits = z.name
		} else if !isBound {
			out.Static = append(out.Static, z.name)
		}
		out.Enrolled = out.Enrolled && isBound && bound == wireguard
	}
	switch {
	case out.Done:
		out.Message = "No rotation is under way."
	case len(out.Static) > 0:
		out.Message = "Put the new publicKey and identityKey into this host's Node document and merge; it changes to them with the " +
			"generation that says so. Until then it goes on with the old ones."
	case waits != "":
		out.Message = "Zone " + waits + " is being joined with the old keys; this host changes to the new ones when that is decided."
	case out.Enrolled:
		out.Message = "The controller has the new keys. This host changes to them with the next generation."
	default:
		out.Message = "The controller does not have the new keys yet; the agent goes on trying."
	}
	return out, nil
}
