package witness

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Identity lets a CI job witness with ID tokens in place of a key.
type Identity struct {
	// Name is that of an entry of witnesses.identities in the trust root.
	Name string
	// Token gives a new ID token of the job whose `aud` is audience.
	Token func(ctx context.Context, audience string) (string, error)
}

// hand is how a witness shows itself to the controller, and signs.
type hand interface {
	// id is the key ID under which the signature stands.
	id() string
	// show proves that the request, which is complete but for that, is of the witness.
	show(req *http.Request, body []byte) error
	// sign signs a manifest that was judged.
	sign(ctx context.Context, p protocol.Pending) ([]byte, error)
}

func (cfg *Config) hand() hand {
	if cfg.Identity != nil {
		return &tokenHand{Identity: *cfg.Identity, network: cfg.Network, now: cfg.Now}
	}
	return keyHand{cfg.Key, cfg.Now}
}

// keyHand has a key: proofs and DSSE signatures.
type keyHand struct {
	key signer.PrivateKey
	now func() time.Time
}

func (h keyHand) id() string { return h.key.Public().ID() }

func (h keyHand) show(req *http.Request, body []byte) error {
	proof, err := protocol.NewProof(protocol.WitnessSubject(h.id()), req.Method, req.URL, body, h.now())
	if err != nil {
		return err
	}
	token, err := proof.Sign(h.key.Sign)
	if err != nil {
		return err
	}
	req.Header.Set(protocol.ProofHeader, token)
	return nil
}

func (h keyHand) sign(_ context.Context, p protocol.Pending) ([]byte, error) {
	return h.key.Sign(signer.PAE(peermap.ManifestType, p.Manifest)), nil
}

// accessLife is how long one access token is shown; those of CI systems live five minutes or more.
const accessLife = 2 * time.Minute

// tokenHand has tokens: one that shows it, and one for each manifest.
type tokenHand struct {
	Identity
	network string
	now     func() time.Time

	mu     sync.Mutex
	access string
	got    time.Time
}

func (h *tokenHand) id() string { return signer.WitnessID(h.Name) }

func (h *tokenHand) show(req *http.Request, _ []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age := h.now().Sub(h.got); h.access == "" || age < 0 || age >= accessLife {
		token, err := h.Token(req.Context(), signer.WitnessAccess(h.network))
		if err != nil {
			return fmt.Errorf("get an ID token for access: %w", err)
		}
		h.access, h.got = token, h.now()
	}
	protocol.SetBearer(req.Header, h.access)
	return nil
}

func (h *tokenHand) sign(ctx context.Context, p protocol.Pending) ([]byte, error) {
	token, err := h.Token(ctx, signer.WitnessBinding(peermap.DigestOf(p.Manifest)))
	if err != nil {
		return nil, fmt.Errorf("get an ID token that signs: %w", err)
	}
	return []byte(token), nil
}
