//go:build linux

package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// attack is one lie with the node that hears it and what the node must say of it.
type attack struct {
	node, about       string
	lie               lie
	condition, reason string
}

// attacks are what a stolen controller, without the manifest key, can try.
func attacks() []attack {
	send := func(change func(*question) []byte) func(*question) {
		return func(q *question) { q.say(change(q)) }
	}
	return []attack{
		{"old-view", "the view of an older generation", lie{views, send(func(q *question) []byte { return q.first(q.node, views) })},
			status.Refused, "NotInGeneration"},
		{"other-view", "another node's view", lie{views, send(func(q *question) []byte { return q.first("honest", views) })},
			status.Refused, "NotInGeneration"},
		{"bent-artefact", "a changed byte in a class or block", lie{artefacts, send(func(q *question) []byte { return bend(q.honest) })},
			status.Refused, "WrongBytes"},
		{"old-manifest", "the manifest of an older generation", lie{manifests, send(func(q *question) []byte { return q.first(q.zone, manifests) })},
			status.Refused, "MixedGenerations"},
		{"other-zone", "the manifest of another zone", lie{manifests, send(func(q *question) []byte { return q.first("plant", manifests) })},
			status.Refused, "WrongZone"},
		{"other-stamp", "the timestamp of another zone", lie{stamps, send(func(q *question) []byte { return q.first("plant", stamps) })},
			status.Refused, "WrongZone"},
		{"replay", "everything of an older generation", lie{stamps + " " + manifests + " " + views, send(func(q *question) []byte {
			if q.kind == views {
				return q.first(q.node, views)
			}
			return q.first(q.zone, q.kind)
		})}, status.Stale, "NotCurrent"},
		{"own-key", "a timestamp that the thief signed", lie{stamps, send(func(q *question) []byte { return resign(q.honest) })},
			status.Refused, "BadSignature"},
		{"twice", "a JSON key twice", lie{stamps, send(func(q *question) []byte {
			return bytes.Replace(q.honest, []byte(`{"payloadType":`), []byte(`{"payloadType":"x","payloadType":`), 1)
		})}, status.Refused, "Malformed"},
		{"endless", "a manifest without end", lie{manifests, endless}, status.Refused, "TooLarge"},
		{"flood", "an event without end", lie{watching + " " + stamps, func(q *question) {
			if q.kind == watching {
				q.say([]byte("event: timestamp\ndata: "))
			}
			endless(q)
		}}, status.Refused, "TooLarge"},
		{"trickle", "a view at a byte a second", lie{views, trickle}, status.Unreachable, "TooSlow"},
		{"frozen", "a stream that says nothing, and timestamps of long ago", lie{watching + " " + stamps, func(q *question) {
			if q.kind == stamps {
				q.say(q.first(q.zone, stamps))
				return
			}
			slowly(q, func() []byte { return []byte(": \n\n") })
		}}, status.Stale, "NotCurrent"},
	}
}

// TestTampering tells each of a dozen nodes a lie of its own while a commit is merged. No host changes by a byte, each
// node says what is wrong, and all take the commit once the controller speaks for itself again.
func TestTampering(t *testing.T) {
	t.Parallel()
	all := attacks()
	mesh := func(ports string) string {
		return policyDoc("mesh", "office", "{from: [{any: true}], to: [{any: true}], ports: ["+ports+"]}")
	}
	w := newWorld(t, fleet.Options{Validity: spec.Validity{Timestamp: spec.Duration(8 * time.Second)}}, map[string]string{
		"zones/office.yaml": zoneDoc("office", "10.10.0.0/24"), "policies/office.yaml": mesh("tcp/443"),
		"zones/plant.yaml": zoneDoc("plant", "10.20.0.0/24"), "policies/plant.yaml": policyDoc("none", "plant"),
	})
	w.member("honest", "office", "10.10.0.1")
	w.member("pump", "plant", "10.20.0.1")
	lies := map[string]lie{}
	for i, a := range all {
		w.member(a.node, "office", fmt.Sprintf("10.10.0.%d", i+2))
		lies[a.node] = a.lie
	}
	liar := w.newLiar()
	w.begin()
	before := w.snapshots()
	delete(before, "honest")

	liar.tell(lies)
	w.write("policies/office.yaml", mesh("tcp/443, tcp/80"))
	commit := w.merge("Open 80")
	w.taken(commit)
	w.must(w.Nodes["honest"].AwaitCommit(w.ctx, commit))
	for _, a := range all {
		t.Run(a.node, func(t *testing.T) {
			w := w.in(t)
			n := w.Nodes[a.node]
			var c status.Condition
			err := n.Agent.Await(w.ctx, a.condition+" "+a.reason, func(ctx context.Context) error {
				z, err := n.Zone(ctx, "office")
				if err != nil {
					return err
				}
				if c = condition(z, a.condition); !c.Status || c.Reason != a.reason {
					return fmt.Errorf("conditions: %+v", z.Conditions)
				}
				if liar.lied(a.node) == 0 { // a timestamp may also have run out by itself
					return errors.New("the node has heard no lie")
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", a.about, err)
			}
			t.Logf("%s: %s %s: %s", a.about, c.Type, c.Reason, c.Message)
			if c.Message == "" {
				t.Error("nothing is said to people")
			}
		})
	}
	for name, now := range w.snapshots() {
		if d := before[name].Diff(now); d != "" && name != "honest" {
			t.Errorf("host %s was touched:\n%s", name, d)
		}
	}
	t.Run("honest again", func(t *testing.T) {
		w := w.in(t)
		liar.tell(nil)
		w.enforced(commit)
		for _, a := range all {
			for _, kind := range []string{status.Refused, status.Unreachable, status.Stale} {
				if _, err := w.Nodes[a.node].AwaitCondition(w.ctx, "office", kind, false); err != nil {
					t.Errorf("%s: %v", a.node, err)
				}
			}
		}
	})
}

// bend changes one byte in the middle.
func bend(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)/2] ^= 1
	return out
}

// resign replaces the signatures of an envelope by one of a new key, under the honest key's name.
func resign(env []byte) []byte {
	e, err := signer.ParseEnvelope(env, peermap.MaxTimestampBytes)
	if err != nil {
		return nil
	}
	key, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		return nil
	}
	own, err := signer.SignEd25519(e.PayloadType, e.Payload, key)
	if err != nil {
		return nil
	}
	own.Signatures[0].KeyID = e.Signatures[0].KeyID
	out, _ := own.Encode()
	return out
}

func endless(q *question) {
	junk := []byte(strings.Repeat("x", 64<<10))
	for q.say(junk) {
	}
}

func trickle(q *question) {
	rest := q.honest
	slowly(q, func() []byte {
		first := rest[:1]
		rest = rest[1:]
		return first
	})
}

// slowly says something each second, as long as somebody listens.
func slowly(q *question, next func() []byte) {
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	for q.say(next()) {
		select {
		case <-q.ctx.Done():
			return
		case <-beat.C:
		}
	}
}
