package agenttest

import (
	"crypto/ecdh"
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// Enrolment simulates the enrolment service of a Controller. It verifies proofs and macs as the real one does; what it
// takes for a good token, and how it lies, is the test's. It publishes nothing: the test does, with the node it bound.
type Enrolment struct {
	c   *Controller
	key *ecdh.PrivateKey // of the challenge

	mu       sync.Mutex
	script   Script
	bindings map[string]binding.Binding // by node
	rotated  map[peermap.Key]bool       // identity keys that were replaced
	requests []protocol.EnrolRequest
	answers  map[string]protocol.EnrolResult // by node and token
	left     []string
}

// Script says how the service behaves; the zero value binds everybody for an hour.
type Script struct {
	// Refuse answers a request with a problem; nil, or a nil answer, lets it through.
	Refuse func(req protocol.EnrolRequest) *protocol.Problem
	// Review makes requests wait until it is false.
	Review bool
	// Life of a binding; 0: one hour.
	Life time.Duration
	// Ephemeral is what the rule says.
	Ephemeral bool
	// Issuers of the network; nil: one, called corp.
	Issuers []protocol.IssuerInfo
	// ClockShift is how far the service's clock is ahead.
	ClockShift time.Duration
	// Once lets each token give one binding: used again by the same node it gives the same, as with the real service.
	Once bool
	// Lose takes the answers with a binding away on their way back.
	Lose bool
	// Edit changes a binding before it is signed, Signer replaces the enrolment key: what a stolen controller could do.
	Edit   func(*binding.Binding)
	Signer *signer.PrivateKey
}

func newEnrolment(c *Controller) *Enrolment {
	key, err := ecdh.X25519().NewPrivateKey(seed("challenge"))
	check(c.t, err)
	return &Enrolment{c: c, key: key, bindings: map[string]binding.Binding{}, rotated: map[peermap.Key]bool{}, answers: map[string]protocol.EnrolResult{}}
}

// Play changes the script.
func (e *Enrolment) Play(edit func(*Script)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	edit(&e.script)
}

// Binding gives what a node was bound with last.
func (e *Enrolment) Binding(node string) (binding.Binding, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b, ok := e.bindings[node]
	return b, ok
}

// Requests gives the enrolment requests that were proven.
func (e *Enrolment) Requests() []protocol.EnrolRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Left lists the nodes that said goodbye.
func (e *Enrolment) Left() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.left)
}

// Drop forgets a node, as a restored controller or a revocation does.
func (e *Enrolment) Drop(node string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.bindings, node)
}

func (e *Enrolment) register(mux *http.ServeMux) {
	handle := func(pattern, resource string, serve http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			n, _ := e.c.requests.LoadOrStore(resource, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			e.c.mu.Lock()
			override := e.c.override[resource]
			e.c.mu.Unlock()
			if override == nil || !override(w, r) {
				serve(w, r)
			}
		})
	}
	handle(protocol.PatternEnrolment, "enrolment", e.info)
	handle(protocol.PatternEnrol, "enrol", e.enrol)
	handle(protocol.PatternRotate, "rotate", e.rotate)
	handle(protocol.PatternLeave, "leave", e.leave)
}

func (e *Enrolment) play() (Script, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.script, e.c.now().Add(e.script.ClockShift)
}

func (e *Enrolment) info(w http.ResponseWriter, r *http.Request) {
	script, now := e.play()
	issuers := script.Issuers
	if issuers == nil {
		issuers = []protocol.IssuerInfo{{
			Name: "corp", URL: "https://id.example", Audience: "apex", ClientID: "apex-cli", Scopes: []string{"openid"}, Bound: true,
		}}
	}
	e.send(w, http.StatusOK, protocol.EnrolmentInfo{
		Network: r.PathValue("network"), Time: now.UTC().Truncate(time.Second), Issuers: issuers,
		Challenge: peermap.Key(e.key.PublicKey().Bytes()),
	})
}

func (e *Enrolment) enrol(w http.ResponseWriter, r *http.Request) {
	script, now := e.play()
	body, err := protocol.ReadAll(r.Body, protocol.MaxEnrolBytes)
	var req protocol.EnrolRequest
	if err == nil {
		req, err = protocol.DecodeEnrol(body, r.PathValue("network"), r.PathValue("zone"))
	}
	if err != nil {
		protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, err.Error()).Write(w)
		return
	}
	mac, err := protocol.EnrolMac([32]byte(e.key.Bytes()), req.PublicKey, req)
	if err == nil && !protocol.EqualMac(mac, req.Mac) {
		err = protocol.ErrMac
	}
	if err == nil {
		err = proof(r, r.Header.Get(protocol.ProofHeader), req.IdentityKey, req.Node, body, now)
	}
	if err != nil {
		protocol.NewProblem(http.StatusUnauthorized, protocol.CodeProof, err.Error()).Write(w)
		return
	}
	e.mu.Lock()
	e.requests = append(e.requests, req)
	e.mu.Unlock()
	if script.Refuse != nil {
		if problem := script.Refuse(req); problem != nil {
			problem.Write(w)
			return
		}
	}
	e.mu.Lock()
	answer, used := e.answers[req.Node+" "+req.Token]
	used = used && script.Once && e.bindings[req.Node].Expires > now.Unix()
	e.mu.Unlock()
	if used {
		e.send(w, http.StatusOK, answer)
		return
	}
	if script.Review {
		id := peermap.DigestOf(slices.Concat([]byte(req.Zone+req.Node), req.PublicKey[:], req.IdentityKey[:])).String()[:16]
		e.send(w, http.StatusAccepted, protocol.EnrolResult{Waiting: id, RenewAfter: now.Unix()})
		return
	}
	e.bind(w, script, now, req.Token, binding.Binding{
		Network: req.Network, Zone: req.Zone, Node: req.Node, PublicKey: req.PublicKey, IdentityKey: req.IdentityKey,
		Routes: req.Routes, Relay: req.Relay,
		Identity: binding.Identity{
			Issuer: req.Issuer, URL: "https://id.example", Subject: "subject-1", Username: "ada",
			Groups: []string{}, Claims: []binding.Claim{},
		},
	})
}

func (e *Enrolment) rotate(w http.ResponseWriter, r *http.Request) {
	script, now := e.play()
	network, zone, node := r.PathValue("network"), r.PathValue("zone"), r.PathValue("node")
	held, ok := e.Binding(node)
	body, err := protocol.ReadAll(r.Body, protocol.MaxRotateBytes)
	var req protocol.RotateRequest
	if err == nil {
		req, err = protocol.DecodeRotate(body)
	}
	if err == nil && ok {
		err = proof(r, r.Header.Get(protocol.ProofHeader), held.IdentityKey, node, body, now)
	}
	if err == nil {
		err = proof(r, req.Proof, req.IdentityKey, node, nil, now)
	}
	if err == nil {
		var mac []byte
		mac, err = protocol.RotateMac([32]byte(e.key.Bytes()), req.PublicKey, network, zone, node, req)
		if err == nil && !protocol.EqualMac(mac, req.Mac) {
			err = protocol.ErrMac
		}
	}
	if err != nil || !ok {
		protocol.NewProblem(http.StatusUnauthorized, protocol.CodeProof, "not proven").Write(w)
		return
	}
	e.mu.Lock()
	e.rotated[held.IdentityKey] = true
	e.mu.Unlock()
	held.PublicKey, held.IdentityKey = req.PublicKey, req.IdentityKey
	e.bind(w, script, now, "", held)
}

func (e *Enrolment) leave(w http.ResponseWriter, r *http.Request) {
	_, now := e.play()
	node := r.PathValue("node")
	held, ok := e.Binding(node)
	if !ok || proof(r, r.Header.Get(protocol.ProofHeader), held.IdentityKey, node, nil, now) != nil {
		notFound(w)
		return
	}
	e.mu.Lock()
	e.left = append(e.left, node)
	delete(e.bindings, node)
	e.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// proof checks an Apex-Proof token for this request.
func proof(r *http.Request, raw string, key peermap.Key, node string, body []byte, now time.Time) error {
	token, err := protocol.ParseToken(raw)
	if err != nil {
		return err
	}
	if token.Proof.Subject != node {
		return protocol.ErrProof
	}
	return token.Verify(key, r.Method, r.URL.EscapedPath(), []string{r.Host}, body, now)
}

// bind completes, signs, remembers and sends a binding, which a token gave or (empty) a rotation.
func (e *Enrolment) bind(w http.ResponseWriter, script Script, now time.Time, token string, b binding.Binding) {
	life := script.Life
	if life == 0 {
		life = time.Hour
	}
	b.Type, b.Labels, b.Ephemeral = binding.Type, []binding.Pair{}, script.Ephemeral
	b.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	b.Rule = binding.Rule{Name: "staff", File: "zones/prod.yaml", Line: 7}
	b.Commit = hex.EncodeToString(make([]byte, 20))
	b.Issued, b.Expires = now.Unix(), now.Add(life).Unix()
	b.Evidence = peermap.DigestOf([]byte("evidence"))
	if script.Edit != nil {
		script.Edit(&b)
	}
	payload, err := b.Encode()
	if err != nil {
		protocol.NewProblem(http.StatusInternalServerError, protocol.CodeInternal, err.Error()).Write(w)
		return
	}
	key := Ed25519(e.c.t, "enrolment")
	if script.Signer != nil {
		key = *script.Signer
	}
	answer := protocol.EnrolResult{
		Binding: Sign(e.c.t, binding.Type, payload, key), RenewAfter: b.Issued + int64(life/time.Second)*2/3,
	}
	e.mu.Lock()
	e.bindings[b.Node], e.answers[b.Node+" "+token] = b, answer
	e.mu.Unlock()
	if script.Lose {
		panic(http.ErrAbortHandler)
	}
	e.send(w, http.StatusOK, answer)
}

func (e *Enrolment) send(w http.ResponseWriter, status int, message any) {
	body, err := protocol.Encode(message)
	check(e.c.t, err)
	w.Header().Set("Content-Type", protocol.TypeJSON)
	w.WriteHeader(status)
	w.Write(body)
}
