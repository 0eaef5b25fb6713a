package serve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// applyTimeout bounds an apply: fetch, verify, compile, sign.
const applyTimeout = 2 * time.Minute

// applyLeeway is how far the clock of a CI system may be off.
const applyLeeway = time.Minute

// postApply makes the controller take a commit now, if one of the trust root's appliers asks for it: by the signature of a
// key, or by an ID token whose commit claim is that commit.
func (s *Server) postApply(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, ok := s.network(r.PathValue("network"))
	if !ok || !n.Apply {
		return signatureProblem(notSigned)
	}
	signed, byToken, err := protocol.DecodeApply(data)
	if err != nil {
		return err
	}
	var apply protocol.Apply
	var applier string
	if byToken == nil {
		apply, err = s.applySigned(r.Context(), n, signed)
	} else {
		apply, applier, err = s.applyByToken(r.Context(), n, *byToken)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), applyTimeout)
	defer cancel()
	// The write deadline of the server is shorter than an apply may take.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(applyTimeout + 10*time.Second))
	if err := n.Control.Apply(ctx, apply.Commit); err != nil {
		return err
	}
	result := protocol.ApplyResult{Commit: apply.Commit}
	if fleet, ok := s.Fleet(n.Name); ok {
		result.Zones = fleet.Zones
	}
	if applier != "" {
		// Without a ticket the apply is done all the same.
		if result.Ticket, err = n.giveTicket(r.Context(), applier, s.opts.Now()); err != nil {
			s.opts.Logger.Warn("no ticket for who applied", "network", n.Name, "applier", applier, "error", err)
		}
	}
	return writeJSON(w, result)
}

// applySigned judges an apply by the SSH key of an applier.
func (s *Server) applySigned(ctx context.Context, n *network, req protocol.SignedRequest) (protocol.Apply, error) {
	if !n.signedByPerson(req, protocol.ApplyNamespace, signer.RoleAppliers) {
		return protocol.Apply{}, signatureProblem(notSigned)
	}
	apply, err := protocol.ParseApply(req.Payload, n.Name, s.opts.Now())
	if err != nil {
		return protocol.Apply{}, signatureProblem(err.Error())
	}
	return apply, n.useNonce(ctx, "apply", apply.Nonce)
}

// noToken is the answer where no identity may apply at all.
const noToken = "no identity may apply to this network: list it under appliers.identities of the trust root, or sign with an applier's key"

// applyByToken judges an apply by the identity of a CI job. The token does not sign the request, so nothing of the request
// counts but the commit, which the token has to name by itself. A token is used up only once all of it is right.
func (s *Server) applyByToken(ctx context.Context, n *network, req protocol.TokenRequest) (protocol.Apply, string, error) {
	root := n.Publisher.Root()
	if root == nil || n.Verifier == nil || n.Tokens == nil || len(root.ApplierIdentities) == 0 {
		return protocol.Apply{}, "", tokenProblem(errors.New(noToken))
	}
	apply, err := protocol.ParseApply(req.Payload, n.Name, s.opts.Now())
	if err != nil {
		return protocol.Apply{}, "", signatureProblem(err.Error())
	}
	verified, issuers, err := n.verifyApplier(ctx, root, req.Token)
	if err != nil {
		return protocol.Apply{}, "", tokenProblem(err)
	}
	var applier string
	err = fmt.Errorf("%w: no applier has this audience", signer.ErrIdentity)
	for _, issuer := range issuers {
		if !slices.Contains(verified.Audience, issuer.Audience) {
			continue
		}
		if applier, err = root.MatchApplier(verified.Claims, issuer, apply.Commit); err == nil {
			break
		}
	}
	if err != nil {
		return protocol.Apply{}, "", tokenProblem(err)
	}
	if err := n.useToken(ctx, verified); err != nil {
		return protocol.Apply{}, "", err
	}
	s.opts.Logger.Info("apply by identity", "network", n.Name, "commit", apply.Commit, "applier", applier,
		"issuer", verified.Issuer, "subject", verified.Subject)
	return apply, applier, nil
}

// verifyApplier verifies a token of any issuer that the root lets apply, and gives that issuer's entries.
func (n *network) verifyApplier(ctx context.Context, root *signer.Root, raw string) (*tokens.Verified, []signer.ApplierIssuer, error) {
	url, err := tokens.IssuerOf(raw)
	if err != nil {
		return nil, nil, err
	}
	demand := tokens.Issuer{URL: url, Leeway: applyLeeway}
	var issuers []signer.ApplierIssuer
	for _, a := range root.ApplierIssuers() {
		if a.URL == url {
			issuers = append(issuers, a)
			demand.Audiences = append(demand.Audiences, a.Audience)
		}
	}
	if len(issuers) == 0 {
		return nil, nil, fmt.Errorf("%w: claim iss: no applier of the trust root has the issuer %.160q", signer.ErrIdentity, url)
	}
	verified, err := n.Verifier.Verify(ctx, demand, raw)
	return verified, issuers, err
}

// useToken records that a token was used, for anything, at any replica.
func (n *network) useToken(ctx context.Context, v *tokens.Verified) error {
	err := n.Tokens.Create(ctx, n.Name+"."+v.ID, []byte("apply"))
	if errors.Is(err, store.ErrExists) {
		return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeReplay, "this token was used before: each is good for one apply; get a new one")
	}
	return storeProblem(err)
}

// tokenProblem says what is wrong with a token, or that its issuer cannot be asked. Neither holds the token, nor why: package
// tokens logs that, and strangers would learn from it what this host reaches.
func tokenProblem(err error) error {
	var down *tokens.Unavailable
	if errors.As(err, &down) {
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeUnavailable,
			fmt.Sprintf("issuer %s cannot be asked now: try again", down.Issuer)).RetryIn(5 * time.Second)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return protocol.NewProblem(http.StatusUnauthorized, protocol.CodeToken, clipText(err.Error(), maxReason))
}

// maxReason bounds what is told of a token, in bytes.
const maxReason = 2 << 10

func clipText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return text[:limit]
}

// ticket is what the store keeps of a ticket, under the digest of its text, so that nobody who reads the store can use it.
type ticket struct {
	Applier string `json:"applier"`
	Given   int64  `json:"given"` // Unix seconds
	Shown   int64  `json:"shown"` // likewise; the bucket forgets what is not shown for TicketIdle
}

func (n *network) ticketKey(text string) string {
	sum := sha256.Sum256([]byte(text))
	return n.Name + ".ticket." + hex.EncodeToString(sum[:])
}

func (n *network) giveTicket(ctx context.Context, applier string, now time.Time) (string, error) {
	text, err := protocol.NewTicket()
	if err != nil {
		return "", err
	}
	return text, n.keepTicket(ctx, text, ticket{Applier: applier, Given: now.Unix(), Shown: now.Unix()})
}

func (n *network) keepTicket(ctx context.Context, text string, t ticket) error {
	value, err := protocol.Encode(t)
	if err != nil {
		return err
	}
	return n.Nonces.Put(ctx, n.ticketKey(text), value)
}

// ticketRefresh is how long a ticket is used without writing that it was.
const ticketRefresh = time.Minute

// showTicket says whether text is a ticket for this network whose applier still is one.
func (n *network) showTicket(ctx context.Context, text string, now time.Time) error {
	value, err := n.Nonces.Get(ctx, n.ticketKey(text))
	if errors.Is(err, store.ErrNotFound) {
		return signatureProblem(badTicket)
	}
	if err != nil {
		return storeProblem(err)
	}
	var t ticket
	if err := protocol.Decode(value, maxReason, &t); err != nil {
		return err
	}
	root := n.Publisher.Root()
	stillApplier := root != nil && slices.ContainsFunc(root.ApplierIdentities, func(a signer.ApplierIdentity) bool { return a.Name == t.Applier })
	shown := now.Sub(time.Unix(t.Shown, 0))
	if !stillApplier || shown > protocol.TicketIdle || now.Sub(time.Unix(t.Given, 0)) > protocol.MaxTicketLife {
		return signatureProblem(badTicket)
	}
	if shown >= ticketRefresh {
		t.Shown = now.Unix()
		return n.keepTicket(ctx, text, t)
	}
	return nil
}

const badTicket = "the ticket is not, or no longer, good for this network: apply again, or sign the request with a key"
