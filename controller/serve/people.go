package serve

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

func signatureProblem(detail string) error {
	return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeSignature, detail)
}

const notSigned = "not signed by a key that the network's trust root lets do this"

// getFleet tells appliers and maintainers how the network does.
func (s *Server) getFleet(w http.ResponseWriter, r *http.Request) error {
	n, ok := s.network(r.PathValue("network"))
	if !ok {
		return signatureProblem(notSigned)
	}
	if err := s.mayReadFleet(r, n); err != nil {
		return err
	}
	fleet, ok := s.Fleet(n.Name)
	if !ok {
		return notFound()
	}
	return writeJSON(w, fleet)
}

// mayReadFleet lets through who shows a ticket or signs with the key of an applier, a maintainer or a root holder.
func (s *Server) mayReadFleet(r *http.Request, n *network) error {
	if text, ok := protocol.GetBearer(r.Header); ok {
		return n.showTicket(r.Context(), text, s.opts.Now())
	}
	req, err := protocol.GetRequest(r.Header)
	if err != nil {
		return signatureProblem(err.Error())
	}
	if !n.signedByPerson(req, protocol.StatusNamespace, signer.RoleAppliers, signer.RoleMaintainers, signer.RoleRoot) {
		return signatureProblem(notSigned)
	}
	query, err := protocol.ParseStatusQuery(req.Payload, n.Name, s.opts.Now())
	if err != nil {
		return signatureProblem(err.Error())
	}
	return n.useNonce(r.Context(), "status", query.Nonce)
}

// AdminHandler answers on the Unix socket, whose file mode is the authentication: GET of a network's status.
func (s *Server) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(protocol.PatternFleet, s.plain(func(w http.ResponseWriter, r *http.Request) error {
		fleet, ok := s.Fleet(r.PathValue("network"))
		if !ok {
			return notFound()
		}
		return writeJSON(w, fleet)
	}))
	return mux
}

// HealthHandler answers /healthz and /readyz.
func (s *Server) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	return mux
}

func writeJSON(w http.ResponseWriter, v any) error {
	data, err := protocol.Encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", protocol.TypeJSON)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(data) // the client is gone; there is nobody to tell
	return nil
}

// signedByPerson verifies an SSHSIG by any key of the roles, before the payload is parsed.
func (n *network) signedByPerson(req protocol.SignedRequest, namespace string, roles ...signer.RoleName) bool {
	root := n.Publisher.Root()
	if root == nil {
		return false
	}
	_, err := root.VerifyRequest(namespace, req.Payload, []byte(req.Signature), roles...)
	return err == nil
}

// useNonce records a nonce once. Without the store nothing can be told from its replay, so nothing is accepted.
func (n *network) useNonce(ctx context.Context, purpose, nonce string) error {
	err := n.Nonces.Create(ctx, n.Name+"."+purpose+"."+nonce, nil)
	if errors.Is(err, store.ErrExists) {
		return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeReplay, "this request was used before: sign a new one")
	}
	return storeProblem(err)
}

// storeProblem says that the store failed; nil for no error.
func storeProblem(err error) error {
	if err == nil {
		return nil
	}
	return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "the store of used requests cannot be reached").RetryIn(5 * time.Second)
}

// postWebhook takes a forge's word that something happened, and nothing else from it: it makes the controller look sooner.
func (s *Server) postWebhook(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, ok := s.network(r.PathValue("network"))
	if !ok || len(n.WebhookSecret) == 0 || !webhookSigned(r.Header, data, n.WebhookSecret) {
		return signatureProblem("not signed with the webhook's secret")
	}
	n.Control.Poke()
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// webhookSigned knows GitHub, Gitea and Forgejo (X-Hub-Signature-256: sha256=hex of HMAC-SHA256), Gitea's older header
// and the generic one (X-Gitea-Signature, X-Apex-Signature: hex), and GitLab (X-Gitlab-Token: the secret itself).
func webhookSigned(h http.Header, data, secret []byte) bool {
	if token := h.Get("X-Gitlab-Token"); token != "" {
		return subtle.ConstantTimeCompare([]byte(token), secret) == 1
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(data)
	want := mac.Sum(nil)
	for _, name := range []string{"X-Hub-Signature-256", "X-Gitea-Signature", "X-Apex-Signature"} {
		if v := h.Get(name); v != "" {
			got, err := hex.DecodeString(strings.TrimPrefix(v, "sha256="))
			return err == nil && hmac.Equal(got, want)
		}
	}
	return false
}

// getPending lists what waits for witnesses; with ?wait= it answers once there is something, or empty after that time.
func (s *Server) getPending(w http.ResponseWriter, r *http.Request) error {
	n, id, err := s.authenticateWitness(r, nil)
	if err != nil {
		return err
	}
	wait, err := pendingWait(r)
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		list, changed := n.Publisher.Pending()
		out := protocol.PendingList{Pending: []protocol.Pending{}}
		for _, p := range list {
			if !p.Answered(n.Publisher.Root(), id) {
				out.Pending = append(out.Pending, protocol.Pending{Zone: p.Zone, Digest: p.Digest, Manifest: p.Payload, Since: p.Since.UTC()})
			}
		}
		if len(out.Pending) > 0 || wait == 0 {
			return writeJSON(w, out)
		}
		select {
		case <-changed:
		case <-timer.C:
			wait = 0
		case <-n.Done:
			wait = 0
		case <-s.closed:
			wait = 0
		case <-r.Context().Done():
			return nil
		}
	}
}

func pendingWait(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get(protocol.QueryWait)
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, badRequest("query %s: want whole seconds", protocol.QueryWait)
	}
	return min(time.Duration(seconds)*time.Second, protocol.MaxPendingWait), nil
}

// postCosign takes a witness's verdict.
func (s *Server) postCosign(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, id, err := s.authenticateWitness(r, data)
	if err != nil {
		return err
	}
	c, err := protocol.DecodeCosign(data)
	if err != nil {
		return err
	}
	if c.KeyID != id {
		return badRequest("the verdict is of another key than the proof")
	}
	if _, identity := n.Publisher.Root().WitnessByID(id); identity && c.Refusal == "" {
		// Agents judge the token for as long as the manifest lives; that it is alive now is for us to see.
		if _, err := n.Publisher.Root().VerifyWitness(id, string(c.Signature), signer.WitnessBinding(c.Digest), s.opts.Now()); err != nil {
			return tokenProblem(err)
		}
	}
	if c.Refusal != "" {
		err = n.Publisher.Refuse(c.Zone, c.Digest, id, publish.Refusal{Why: c.Refusal, Bindings: c.Bindings, Later: c.Later})
	} else {
		err = n.Publisher.Cosign(c.Zone, c.Digest, id, c.Signature)
	}
	switch {
	case errors.Is(err, publish.ErrNotPending):
		return protocol.NewProblem(http.StatusConflict, protocol.CodeConflict, err.Error())
	case errors.Is(err, publish.ErrNotWitness), errors.Is(err, signer.ErrSignature), errors.Is(err, signer.ErrIdentity):
		return signatureProblem(err.Error())
	case errors.Is(err, signer.ErrTooLarge):
		return badRequest("%v", err)
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
