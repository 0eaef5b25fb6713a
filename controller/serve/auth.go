package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"hash/maphash"
	"net/http"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// caller is a node that has proven itself.
type caller struct {
	zone     *zone
	member   *member
	snapshot *publish.Snapshot
	changed  <-chan struct{}
	node     *publish.Node
	index    uint64
}

// unproven is the one answer to whoever has not shown the key of a member: it does not tell whether the network, the zone
// or the node exists.
const unproven = "the request is not proven by the identity key of a node in a published generation of this zone"

func proofProblem(detail string) error {
	return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeProof, detail)
}

// authenticate finds out which node asks, for the network and zone in the path. body is nil if the request has none.
func (s *Server) authenticate(r *http.Request, body []byte) (*caller, error) {
	token, err := parseProof(r)
	if err != nil {
		return nil, err
	}
	c, key := s.lookup(r.PathValue("network"), r.PathValue("zone"), token.Proof.Subject)
	if c == nil {
		key = s.dummy
	}
	if err := s.verify(token, key, r, body); err != nil || c == nil {
		if c == nil || !signedBy(token, key) {
			return nil, proofProblem(unproven)
		}
		return nil, proofProblem(err.Error())
	}
	c.member = c.zone.member(c.node.Name)
	if err := c.member.use(maphash.String(c.zone.net.seed, token.Proof.ID), s.opts.Now()); err != nil {
		return nil, err
	}
	return c, nil
}

// authenticateNode is authenticate for resources of one node, which only that node may see.
func (s *Server) authenticateNode(r *http.Request, body []byte) (*caller, error) {
	c, err := s.authenticate(r, body)
	if err != nil {
		return nil, err
	}
	if c.node.Name != r.PathValue("node") {
		return nil, notFound()
	}
	return c, nil
}

// lookup finds a member of a published generation and its key; nil if there is none.
func (s *Server) lookup(network, zone, node string) (*caller, peermap.Key) {
	n, ok := s.network(network)
	if !ok {
		return nil, peermap.Key{}
	}
	z, ok := n.Publisher.Zone(zone)
	if !ok {
		return nil, peermap.Key{}
	}
	snapshot, changed := z.Snapshot()
	if snapshot == nil {
		return nil, peermap.Key{}
	}
	member, index, ok := snapshot.Node(node)
	if !ok || member.Identity == (peermap.Key{}) {
		return nil, peermap.Key{}
	}
	return &caller{zone: n.zone(zone), snapshot: snapshot, changed: changed, node: member, index: index}, member.Identity
}

func parseProof(r *http.Request) (*protocol.Token, error) {
	values := r.Header.Values(protocol.ProofHeader)
	if len(values) != 1 {
		return nil, proofProblem("want exactly one header " + protocol.ProofHeader)
	}
	token, err := protocol.ParseToken(values[0])
	if err != nil {
		return nil, proofProblem(err.Error())
	}
	return token, nil
}

func (s *Server) verify(token *protocol.Token, key peermap.Key, r *http.Request, body []byte) error {
	hosts := *s.hosts.Load()
	if len(hosts) == 0 {
		hosts = []string{r.Host}
	}
	return token.Verify(key, r.Method, r.URL.EscapedPath(), hosts, body, s.opts.Now())
}

// signedBy tells a wrong signature from a proof for something else, by which only the key's holder learns what is wrong.
func signedBy(token *protocol.Token, key peermap.Key) bool { return token.SignedBy(key) }

// use records the ID of a proof and that the node was here.
func (m *member) use(id uint64, now time.Time) error {
	m.mu.Lock()
	err := m.replay.use(id, now)
	m.mu.Unlock()
	if errors.Is(err, errReplayed) {
		return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeReplay, "this proof was used before")
	}
	if err == nil {
		m.lastSeen.Store(now.Unix())
	}
	return err
}

// authenticateWitness finds out which witness asks: by the proof of its key, or by an ID token of a witness identity.
func (s *Server) authenticateWitness(r *http.Request, body []byte) (*network, string, error) {
	if access, ok := protocol.GetBearer(r.Header); ok {
		return s.witnessByToken(r, access)
	}
	token, err := parseProof(r)
	if err != nil {
		return nil, "", err
	}
	n, id, raw, err := s.witnessOf(r, token)
	if err != nil {
		return nil, "", err
	}
	if err := s.verify(token, raw, r, body); err != nil {
		return nil, "", proofProblem(err.Error())
	}
	m := n.witness(id)
	if err := m.use(maphash.String(n.seed, token.Proof.ID), s.opts.Now()); err != nil {
		return nil, "", err
	}
	return n, id, nil
}

// fromWitness lets only witnesses send a body: whether the proof is for just this one is checked once it is here.
func (s *Server) fromWitness(r *http.Request) error {
	if access, ok := protocol.GetBearer(r.Header); ok {
		_, _, err := s.witnessByToken(r, access)
		return err
	}
	token, err := parseProof(r)
	if err != nil {
		return err
	}
	_, _, raw, err := s.witnessOf(r, token)
	if err == nil && !signedBy(token, raw) {
		err = proofProblem(notWitness)
	}
	return err
}

const notWitness = "the request is not proven by a witness key of this network's trust root"

// notWitnessToken is the answer to a token that proves nothing, whatever there is to prove.
const notWitnessToken = "the token is not of a witness identity of this network's trust root, or its issuer signs with a key that is not listed there"

// witnessByToken finds the witness identity whose access token this is. The token is good for as long as it lives, since it
// lets its holder read and refuse only. What is wrong with it is told to who shows one that the issuer signed.
func (s *Server) witnessByToken(r *http.Request, access string) (*network, string, error) {
	n, ok := s.network(r.PathValue("network"))
	if !ok || n.Publisher.Root() == nil {
		return nil, "", tokenProblem(errors.New(notWitnessToken))
	}
	id, err := n.Publisher.Root().VerifyWitness("", access, signer.WitnessAccess(n.Name), s.opts.Now())
	switch {
	case err == nil:
		n.witness(id).lastSeen.Store(s.opts.Now().Unix())
		return n, id, nil
	case errors.Is(err, signer.ErrMismatch), errors.Is(err, signer.ErrExpired), errors.Is(err, signer.ErrFuture), errors.Is(err, signer.ErrIdentity):
		return nil, "", tokenProblem(err)
	}
	return nil, "", tokenProblem(errors.New(notWitnessToken))
}

// witnessOf finds the witness that a proof names, and its key.
func (s *Server) witnessOf(r *http.Request, token *protocol.Token) (n *network, id string, raw peermap.Key, err error) {
	n, ok := s.network(r.PathValue("network"))
	id, witness := strings.CutPrefix(token.Proof.Subject, protocol.WitnessSubject(""))
	if !ok || !witness || n.Publisher.Root() == nil {
		return nil, "", raw, proofProblem(notWitness)
	}
	root := n.Publisher.Root()
	_, key, ok := root.KeyByID(id)
	if !ok || !(root.HasRole(id, signer.RoleWitnesses) || root.HasRole(id, signer.RoleManifest)) {
		return nil, "", raw, proofProblem(notWitness)
	}
	if raw, err = rawKey(key); err != nil {
		return nil, "", raw, proofProblem(notWitness)
	}
	return n, id, raw, nil
}

// witness gives the memory for a witness: a member of no zone.
func (n *network) witness(id string) *member { return n.zone("").member(id) }

// rawKey gives the bytes of an Ed25519 key.
func rawKey(key signer.PublicKey) (peermap.Key, error) {
	raw, err := base64.StdEncoding.DecodeString(key.Text())
	if err != nil || key.Kind() != signer.KindEd25519 || len(raw) != len(peermap.Key{}) {
		return peermap.Key{}, errors.New("not an Ed25519 key")
	}
	return peermap.Key(raw), nil
}

// asProblem finds the problem in err.
func asProblem(err error) (*protocol.Problem, bool) {
	var p *protocol.Problem
	if errors.As(err, &p) {
		return p, true
	}
	switch {
	case errors.Is(err, protocol.ErrTooLarge):
		return protocol.NewProblem(http.StatusRequestEntityTooLarge, protocol.CodeTooLarge, err.Error()), true
	case errors.Is(err, protocol.ErrMalformed):
		return protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, err.Error()), true
	case errors.Is(err, context.Canceled):
		return protocol.NewProblem(http.StatusRequestTimeout, protocol.CodeTimeout, "the client went away"), true
	}
	return nil, false
}
