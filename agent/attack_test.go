package agent

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// attack is one row of the suite: what somebody who holds the controller, or the network to it, serves to an agent that
// is at serial 2, and the condition and reason that must follow. Every row also demands that the host stays as it was,
// byte for byte, and that the agent follows an honest controller again afterwards.
type attack struct {
	name      string
	condition string
	reason    string
	says      string // part of the message
	serve     func(w *world)
	grace     time.Duration // of an exchange; 0: never over
	// after makes the honest generation that ends the row; nil: the next serial.
	after func(w *world)
}

// frameless makes the watch of no use, so that what is tested is the full step.
func frameless(w *world) {
	w.controller.Override("watch", func(rw http.ResponseWriter, r *http.Request) bool {
		protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "no watch today").Write(rw)
		return true
	})
}

// raw answers a resource with fixed bytes.
func raw(body []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Write(body)
		return true
	}
}

func attacks() []attack {
	evil := func(w *world) *agenttest.Network { // same names, other keys
		n := agenttest.NewNetwork(w.t, testNetwork)
		n.Manifest, n.Stamp = agenttest.Ed25519(w.t, "evil manifest"), agenttest.Ed25519(w.t, "evil timestamp")
		return n
	}
	// opened gives every row the same hostile content: the firewall wide open.
	opened := func(z *agenttest.Zone) {
		z.Rules = []peermap.Rule{{ID: "evil/0", Hook: peermap.HookInput, From: peermap.Set{Groups: []uint32{agenttest.Group}}}}
	}
	return []attack{
		{name: "arbitrary install: signed by nobody's keys", condition: status.Refused, reason: "TooFewSignatures", says: "manifest",
			serve: func(w *world) {
				honest := w.make(opened)
				forged := evil(w).Publish(honest.Zone)
				forged.Timestamp = w.network.Timestamp(honest.Zone, forged.Digest)
				w.controller.Serve(forged)
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "arbitrary install: timestamp by nobody's key", condition: status.Refused, reason: "TooFewSignatures", says: "timestamp",
			serve: func(w *world) { w.controller.Serve(evil(w).Publish(w.make(opened).Zone)) }},
		{name: "rollback to an older generation", condition: status.TrustAlarm, reason: "Rollback", says: "1.2 is in force, this says 1.1",
			serve: func(w *world) {
				z := w.zone()
				z.Serial, z.Previous = 1, peermap.Digest{}
				opened(&z)
				w.controller.Serve(w.network.Publish(z))
			}},
		{name: "fork: the same serial with another digest", condition: status.TrustAlarm, reason: "Fork", says: "1.2 is manifest",
			serve: func(w *world) {
				z := w.zone()
				z.Serial = 2
				opened(&z)
				w.controller.Serve(w.network.Publish(z))
			}},
		{name: "fork: the next serial does not continue what is held", condition: status.TrustAlarm, reason: "Fork", says: "continues",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Previous = peermap.DigestOf([]byte("elsewhere")); opened(z) }))
			},
			// That timestamp was validly signed: the announced serial is spent, and so is its digest.
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "freeze: expired timestamps", condition: status.Refused, reason: "Expired", says: "timestamp",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Issued = w.clock.Now().Add(-time.Hour); opened(z) }))
			}},
		{name: "freeze: a timestamp that lives for a year", condition: status.Refused, reason: "LivesTooLong", says: "timestamp",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Stamp = 365 * 24 * time.Hour; opened(z) }))
			}},
		{name: "from the future", condition: status.Refused, reason: "FromTheFuture", says: "clock",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Issued = w.clock.Now().Add(time.Hour); opened(z) }))
			}},
		{name: "mix and match: a manifest of another generation", condition: status.Refused, reason: "MixedGenerations", says: "timestamp names",
			serve: func(w *world) {
				g := w.make(opened)
				g.Manifest = w.last.Manifest
				w.controller.Serve(g)
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "mix and match: a view of another generation", condition: status.Refused, reason: "NotInGeneration", says: "view",
			serve: func(w *world) {
				g, other := w.make(nil), w.make(func(z *agenttest.Zone) { opened(z); z.Serial += 7 })
				g.Views["a"] = other.Views["a"]
				for d, b := range other.Artefacts {
					g.Artefacts[d] = b
				}
				w.controller.Serve(g)
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "mix and match: a block of another generation", condition: status.Refused, reason: "WrongBytes", says: "artefact",
			serve: func(w *world) {
				g := w.make(func(z *agenttest.Zone) { z.Nodes = z.Nodes[:2] })
				for d := range g.Artefacts {
					g.Artefacts[d] = []byte("something else")
				}
				w.controller.Serve(g)
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "mix and match: another zone's generation", condition: status.Refused, reason: "WrongZone", says: "prod",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Name = "test"; opened(z) }))
			}},
		{name: "mix and match: another network's trust root", condition: status.Refused, reason: "TooFewSignatures", says: "trust root",
			serve: func(w *world) {
				other := agenttest.NewNetwork(w.t, "globex")
				w.controller.Override("root", raw(other.SignRoot(func() *signer.Root { r := other.Root.Clone(); r.Version = 2; return r }())))
				w.controller.Serve(evil(w).Publish(w.make(opened).Zone))
			}},
		{name: "a view for another node", condition: status.Refused, reason: "WrongNode", says: `"b"`,
			serve: func(w *world) {
				g := w.make(opened)
				g.Views["a"] = g.Views["b"]
				w.controller.Serve(g)
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "a peer claims a prefix it may not", condition: status.Refused, reason: "ClaimNotGranted", says: "192.168.7.0/24",
			serve: func(w *world) { w.controller.Serve(w.make(routed("192.168.7.0/24"))) },
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "a peer claims an address outside the zone", condition: status.Refused, reason: "ImpossibleMap", says: "outside the zone's ranges",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) {
					z.Nodes = append([]agenttest.Node(nil), z.Nodes...)
					z.Nodes[1].Addresses = []netip.Addr{netip.MustParseAddr("8.8.8.8")}
					z.EditView = func(node string, v *peermap.View) {
						if node == "b" {
							v.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.2")}
						}
					}
				}))
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "two peers with one key", condition: status.Refused, reason: "ImpossibleMap", says: "same public key",
			serve: func(w *world) {
				w.controller.Serve(w.make(func(z *agenttest.Zone) {
					z.Nodes = append([]agenttest.Node(nil), z.Nodes...)
					z.Nodes[2].PublicKey = z.Nodes[1].PublicKey
				}))
			},
			after: func(w *world) { w.serial++; w.publish(nil) }},
		{name: "root skip N to N+2", condition: status.TrustAlarm, reason: "RootSkipped", says: "version 3",
			serve: func(w *world) {
				skipped := w.network.Root.Clone()
				skipped.Version = 3
				w.controller.Override("root", raw(w.network.SignRoot(skipped)))
				w.controller.Serve(evil(w).Publish(w.make(opened).Zone))
			}},
		{name: "a root signed by itself alone", condition: status.Refused, reason: "TooFewSignatures", says: "version 1",
			serve: func(w *world) {
				other := agenttest.NewNetwork(w.t, testNetwork+"-evil")
				next := other.Root.Clone()
				next.Network, next.Version = testNetwork, 2
				w.controller.Override("root", raw(other.SignRoot(next)))
				w.controller.Serve(evil(w).Publish(w.make(opened).Zone))
			}},
		{name: "duplicate key: one key under two ids", condition: status.Refused, reason: "Malformed", says: "timestamp",
			serve: func(w *world) {
				g := w.make(opened)
				env, err := signer.ParseEnvelope(g.Timestamp, peermap.MaxTimestampBytes)
				if err != nil {
					w.t.Fatal(err)
				}
				twice := *env
				twice.Signatures = append(append([]signer.Signature(nil), env.Signatures...), env.Signatures[0])
				g.Timestamp, err = protocol.Encode(twice)
				if err != nil {
					w.t.Fatal(err)
				}
				w.controller.Serve(g)
			}},
		{name: "JSON null in an envelope", condition: status.Refused, reason: "Malformed", says: "timestamp",
			serve: func(w *world) {
				g := w.make(opened)
				g.Timestamp = []byte(`{"payloadType":null,"payload":null,"signatures":null}`)
				w.controller.Serve(g)
			}},
		{name: "duplicate JSON keys in an envelope", condition: status.Refused, reason: "Malformed", says: "timestamp",
			serve: func(w *world) {
				g := w.make(opened)
				g.Timestamp = bytes.Replace(g.Timestamp, []byte(`{"payloadType"`), []byte(`{"payload":"","payloadType"`), 1)
				w.controller.Serve(g)
			}},
		{name: "duplicate JSON keys under a good signature", condition: status.Refused, reason: "Malformed", says: "timestamp",
			serve: func(w *world) {
				g := w.make(opened)
				env, err := signer.ParseEnvelope(g.Timestamp, peermap.MaxTimestampBytes)
				if err != nil {
					w.t.Fatal(err)
				}
				doubled := append([]byte(`{"serial":1,`), env.Payload[1:]...)
				g.Timestamp = agenttest.Sign(w.t, peermap.TimestampType, doubled, w.network.Stamp)
				w.controller.Serve(g)
			}},
		{name: "endless data: announced", condition: status.Refused, reason: "TooLarge", says: "announced",
			serve: func(w *world) {
				w.controller.Override("timestamp", func(rw http.ResponseWriter, r *http.Request) bool {
					rw.Header().Set("Content-Length", "1000000000000")
					rw.WriteHeader(http.StatusOK)
					return true
				})
				w.controller.Serve(w.make(opened))
			}},
		{name: "endless data: not announced", condition: status.Refused, reason: "TooLarge", says: "more than",
			serve: func(w *world) {
				w.controller.Override("timestamp", func(rw http.ResponseWriter, r *http.Request) bool {
					for r.Context().Err() == nil {
						if _, err := rw.Write(make([]byte, 4096)); err != nil {
							break
						}
					}
					return true
				})
				w.controller.Serve(w.make(opened))
			}},
		{name: "slow retrieval", condition: status.Unreachable, reason: "TooSlow", says: "slowly", grace: time.Second,
			serve: func(w *world) {
				w.controller.Override("timestamp", func(rw http.ResponseWriter, r *http.Request) bool {
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for {
						select {
						case <-r.Context().Done():
							return true
						case <-tick.C:
							if _, err := rw.Write([]byte(" ")); err != nil {
								return true
							}
							rw.(http.Flusher).Flush()
						}
					}
				})
				w.controller.Serve(w.make(opened))
			}},
		{name: "a redirect elsewhere", condition: status.Unreachable, reason: "NoAnswer", says: "redirect",
			serve: func(w *world) {
				w.controller.Override("timestamp", func(rw http.ResponseWriter, r *http.Request) bool {
					http.Redirect(rw, r, "http://192.0.2.1/", http.StatusFound)
					return true
				})
				w.controller.Serve(w.make(opened))
			}},
		{name: "not a controller: an error page", condition: status.Refused, reason: "Malformed", says: "timestamp",
			serve: func(w *world) {
				w.controller.Override("timestamp", raw([]byte("<html>Please log in</html>")))
				w.controller.Serve(w.make(opened))
			}},
		{name: "thrown out: the proof is not accepted", condition: status.NotMember, reason: "ProofRefused", says: "does not accept",
			serve: func(w *world) {
				w.controller.Override("timestamp", func(rw http.ResponseWriter, r *http.Request) bool {
					protocol.NewProblem(http.StatusUnauthorized, protocol.CodeProof, "go away").Write(rw)
					return true
				})
				w.controller.Serve(w.make(opened))
			}},
	}
}

func TestAttacks(t *testing.T) {
	for _, row := range attacks() {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.publish(nil)
			w.publish(nil)
			w.start()
			w.awaitApplied(2)
			before := w.snapshot()
			if row.grace != 0 {
				w.restart(func(o *Options) { o.Times.Grace = row.grace })
			}

			frameless(w)
			row.serve(w)
			agenttest.Await(t, row.condition+" "+row.reason+": …"+row.says, func() bool {
				got := w.condition(row.condition)
				return got.Status && got.Reason == row.reason && strings.Contains(got.Message, row.says)
			})
			if after := w.snapshot(); after != before {
				t.Errorf("the host changed.\nbefore:\n%s\nafter:\n%s", before, after)
			}
			if z := w.zoneStatus(); z.Applied == nil || z.Applied.Serial != 2 {
				t.Errorf("applied is %+v, want serial 2", z.Applied)
			}

			if row.after != nil {
				row.after(w)
			} else {
				w.publish(nil)
			}
			// Not before: some rows serve behind these what is validly signed, and must not be believed.
			for _, resource := range []string{"root", "timestamp", "watch"} {
				w.controller.Override(resource, nil)
			}
			w.awaitApplied(w.serial)
			if row.condition != status.TrustAlarm { // an alarm is held up for a person to see
				w.awaitCondition(row.condition, false, "")
			}
			if after := w.snapshot(); after != before {
				t.Errorf("the host changed.\nbefore:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// TestHostileFrames serves the same attacks inside update frames: a frame is an optimisation and nothing more.
func TestHostileFrames(t *testing.T) {
	for _, row := range []struct {
		name string
		edit func(*protocol.Update)
	}{
		{"another view", func(u *protocol.Update) {
			other := []byte("not a view")
			u.ViewDigest = peermap.DigestOf(other)
			u.View = &protocol.Artefact{Digest: u.ViewDigest, Encoding: protocol.Identity, Data: other}
		}},
		{"no artefacts", func(u *protocol.Update) { u.Artefacts = nil }},
		{"artefacts that lead elsewhere", func(u *protocol.Update) {
			for i := range u.Artefacts {
				u.Artefacts[i].Encoding, u.Artefacts[i].Data = protocol.Identity, []byte("something else")
			}
		}},
		{"a delta against what is not here", func(u *protocol.Update) {
			for i := range u.Artefacts {
				u.Artefacts[i].Encoding, u.Artefacts[i].From = protocol.Delta, peermap.DigestOf([]byte("never seen"))
			}
		}},
		{"a wrong proof", func(u *protocol.Update) {
			u.Proof = make([]peermap.Digest, len(u.Proof))
		}},
		{"a broken manifest", func(u *protocol.Update) { u.Manifest = u.Manifest[:len(u.Manifest)/2] }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.publish(nil)
			w.start()
			w.awaitApplied(1)
			w.controller.Frame(row.edit)
			w.nodes = append(w.nodes, w.network.NewNode("d", 4))
			w.publish(nil)
			w.awaitApplied(2) // fetched in full instead
			if !strings.Contains(w.snapshot(), "10.1.0.4/32") {
				t.Errorf("the new peer is missing:\n%s", w.snapshot())
			}
		})
	}
}

// TestFastForwardRecovery: with stolen keys somebody runs the serial far ahead, so that every honest generation looks
// like a rollback. A new trust root with other keys and a higher epoch ends it.
func TestFastForwardRecovery(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)

	w.controller.Serve(w.make(func(z *agenttest.Zone) { z.Serial = 1 << 60 }))
	w.awaitApplied(1 << 60)
	w.publish(nil)
	w.awaitCondition(status.TrustAlarm, true, "Rollback")
	if z := w.zoneStatus(); z.Applied.Serial != 1<<60 {
		t.Errorf("applied is serial %d", z.Applied.Serial)
	}

	fresh := agenttest.Ed25519(t, "fresh timestamp")
	w.network.NextRoot(func(r *signer.Root) {
		r.Epoch++
		for i, key := range r.Keys {
			if key.Name == "timestamp" {
				r.Keys[i] = signer.NewRootKey("timestamp", fresh.Public())
			}
		}
	})
	w.network.Stamp = fresh
	w.nodes = append(w.nodes, w.network.NewNode("d", 4))
	w.publish(nil)
	w.awaitApplied(3)
	if z := w.zoneStatus(); z.Applied.Epoch != 2 {
		t.Errorf("applied is epoch %d, want 2", z.Applied.Epoch)
	}
	if !strings.Contains(w.snapshot(), "10.1.0.4/32") {
		t.Error("the honest generation is not enforced")
	}
}

func TestPinOfAnotherNetwork(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.edit = func(o *Options) { o.Config.RootDigest = strings.Repeat("ab", 32) }
	before := w.snapshot()
	w.start()
	got := w.awaitCondition(status.TrustAlarm, true, "WrongRoot")
	if !strings.Contains(got.Message, "rootDigest") {
		t.Errorf("the message names no next step: %s", got.Message)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("the host changed:\n%s", after)
	}
}

// An agent that is there before its controller has taken up the network must wait, not cry wolf.
func TestControllerWithoutTheNetworkIsNoAlarm(t *testing.T) {
	for _, answer := range []*protocol.Problem{
		protocol.NewProblem(http.StatusNotFound, protocol.CodeNotFound, "no such resource, or not for you"),
		protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no trust root has been verified yet"),
	} {
		t.Run(answer.Code, func(t *testing.T) {
			w := newWorld(t)
			w.publish(nil)
			w.controller.Override("root", func(rw http.ResponseWriter, _ *http.Request) bool {
				answer.Write(rw)
				return true
			})
			w.start()
			w.awaitCondition(status.Unreachable, true, "NotReady")
			if got := w.condition(status.TrustAlarm); got.Status {
				t.Fatalf("a false alarm: %+v", got)
			}
			w.controller.Override("root", nil)
			w.awaitApplied(1)
			w.awaitCondition(status.Unreachable, false, "")
		})
	}
}
