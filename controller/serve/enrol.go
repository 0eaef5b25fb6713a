package serve

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Enrolment takes hosts into one network by their identity. *enrol.Service is the real one. Errors that a caller should
// know of are *protocol.Problem.
type Enrolment interface {
	Info() (protocol.EnrolmentInfo, error)
	Enrol(ctx context.Context, from netip.Addr, proof *protocol.Token,
		req protocol.EnrolRequest) (protocol.EnrolResult, error)
	Rotate(ctx context.Context, from netip.Addr, zone, node string, proof *protocol.Token, body []byte,
		verify enrol.Verify) (protocol.EnrolResult, error)
	Leave(ctx context.Context, zone, node string, proof *protocol.Token, verify enrol.Verify) error
	Decide(ctx context.Context, req protocol.SignedRequest) error
	List() protocol.EnrolmentList
	// Connected says that a node watches; the function it gives that it no longer does.
	Connected(zone, node string) (disconnected func())
}

var _ Enrolment = (*enrol.Service)(nil)

// enrolment finds the network of a request. That a network exists and takes hosts in is no secret: how to join it is for
// everybody to read. Its zones are.
func (s *Server) enrolment(r *http.Request) (*network, error) {
	n, ok := s.network(r.PathValue("network"))
	if !ok || n.Enrolment == nil {
		return nil, notFound()
	}
	return n, nil
}

// sender is the address that a request came from.
func sender(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a test's or a pipe's: all of them count as one
	}
	return at.Addr()
}

// verifier holds proofs against a request.
func (s *Server) verifier(r *http.Request) enrol.Verify {
	return func(t *protocol.Token, key peermap.Key, body []byte) error { return s.verify(t, key, r, body) }
}

func (s *Server) getEnrolment(w http.ResponseWriter, r *http.Request) error {
	n, err := s.enrolment(r)
	if err != nil {
		return err
	}
	info, err := n.Enrolment.Info()
	if err != nil {
		return err
	}
	return writeJSON(w, info)
}

// postEnrol takes a host in. Both keys are proven before anything is asked of a provider.
func (s *Server) postEnrol(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, err := s.enrolment(r)
	if err != nil {
		return err
	}
	token, err := parseProof(r)
	if err != nil {
		return err
	}
	req, err := protocol.DecodeEnrol(data, n.Name, r.PathValue("zone"))
	if err != nil {
		return err
	}
	if token.Proof.Subject != req.Node {
		return proofProblem("the proof is of another node than the request")
	}
	if err := s.verify(token, req.IdentityKey, r, data); err != nil {
		return proofProblem(err.Error())
	}
	result, err := n.Enrolment.Enrol(r.Context(), sender(r), token, req)
	if err != nil {
		return err
	}
	return writeResult(w, result)
}

// writeResult answers 200 with a binding, 202 to a node that waits.
func writeResult(w http.ResponseWriter, result protocol.EnrolResult) error {
	if result.Binding != nil {
		return writeJSON(w, result)
	}
	data, err := protocol.Encode(result)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", protocol.TypeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(data) // the client is gone; there is nobody to tell
	return nil
}

func (s *Server) postRotate(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, err := s.enrolment(r)
	if err != nil {
		return err
	}
	token, err := parseProof(r)
	if err != nil {
		return err
	}
	result, err := n.Enrolment.Rotate(r.Context(), sender(r), r.PathValue("zone"), r.PathValue("node"), token, data,
		s.verifier(r))
	if err != nil {
		return err
	}
	return writeResult(w, result)
}

func (s *Server) postLeave(w http.ResponseWriter, r *http.Request, _ []byte) error {
	n, err := s.enrolment(r)
	if err != nil {
		return err
	}
	token, err := parseProof(r)
	if err != nil {
		return err
	}
	if err := n.Enrolment.Leave(r.Context(), r.PathValue("zone"), r.PathValue("node"), token,
		s.verifier(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getEnrolments tells maintainers and appliers who has enrolled and who waits.
func (s *Server) getEnrolments(w http.ResponseWriter, r *http.Request) error {
	n, ok := s.network(r.PathValue("network"))
	if !ok || n.Enrolment == nil {
		return signatureProblem(notSigned)
	}
	req, err := protocol.GetRequest(r.Header)
	if err != nil {
		return signatureProblem(err.Error())
	}
	if !n.signedByPerson(req, protocol.EnrolNamespace, signer.RoleAppliers, signer.RoleMaintainers, signer.RoleRoot) {
		return signatureProblem(notSigned)
	}
	query, err := protocol.ParseEnrolQuery(req.Payload, n.Name, s.opts.Now())
	if err != nil {
		return signatureProblem(err.Error())
	}
	if err := n.useNonce(r.Context(), "enrolments", query.Nonce); err != nil {
		return err
	}
	return writeJSON(w, n.Enrolment.List())
}

// postDecision takes a maintainer's word on a node that waits. Whether it is a maintainer of the node's zone is judged by
// the service; here it must be one at all before its nonce is remembered.
func (s *Server) postDecision(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, ok := s.network(r.PathValue("network"))
	if !ok || n.Enrolment == nil {
		return signatureProblem(notSigned)
	}
	var req protocol.SignedRequest
	if err := protocol.Decode(data, protocol.MaxApplyBytes*2, &req); err != nil {
		return err
	}
	if !n.signedByPerson(req, protocol.EnrolNamespace, signer.RoleMaintainers) {
		return signatureProblem(notSigned)
	}
	d, err := protocol.ParseDecision(req.Payload, n.Name, s.opts.Now())
	if err != nil {
		return signatureProblem(err.Error())
	}
	if err := n.useNonce(r.Context(), "decide", d.Nonce); err != nil {
		return err
	}
	if err := n.Enrolment.Decide(r.Context(), req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
