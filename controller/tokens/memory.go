package tokens

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"
)

// Memory is the twin of OIDC for tests: it believes the tokens that it issued, and judges them as OIDC does, but for their
// signatures.
type Memory struct {
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu     sync.Mutex
	issued map[string]bool
	down   map[string]error
}

// Issue gives a token with these claims. It is signed by nobody.
func (m *Memory) Issue(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic("tokens: claims of a test are no JSON: " + err.Error())
	}
	encode := base64.RawURLEncoding.EncodeToString
	raw := encode([]byte(`{"alg":"EdDSA"}`)) + "." + encode(payload) + "." + encode([]byte("memory"))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.issued == nil {
		m.issued = map[string]bool{}
	}
	m.issued[raw] = true
	return raw
}

// Break makes an issuer unavailable for this reason; nil mends it.
func (m *Memory) Break(issuer string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down == nil {
		m.down = map[string]error{}
	}
	m.down[issuer] = err
}

// Verify implements Verifier.
func (m *Memory) Verify(ctx context.Context, demand Issuer, raw string) (*Verified, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now
	if m.Now != nil {
		now = m.Now
	}
	at := demand.At
	if at.IsZero() {
		at = now()
	}
	d, err := parse(raw)
	if err != nil {
		return nil, err
	}
	v, err := d.judge(demand, at)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.down[demand.URL]; err != nil {
		return nil, &Unavailable{Issuer: demand.URL, Retry: now().Add(time.Second), Err: err}
	}
	if !m.issued[raw] {
		return nil, refuse(ErrSignature, "", "it was not issued here")
	}
	v.Key = []byte(`{"kty":"memory"}`)
	return v, nil
}

var (
	_ Verifier = (*OIDC)(nil)
	_ Verifier = (*Memory)(nil)
)
