package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/jwk"
	"github.com/apex-network/apex/spec/peermap"
)

// witnessToken is an ID token whose signature, issuer and binding hold. Times are in Unix seconds.
type witnessToken struct {
	subject         string
	issued, expires int64
}

// countIdentities gives the names of the witness identities whose token in env signs its manifest, each once, sorted. As
// with keys, a wrong token under the ID of an identity condemns the envelope, and IDs the root does not know are passed
// over. Two tokens of one subject of one issuer are one witness.
func (r *Root) countIdentities(env *Envelope) ([]string, error) {
	index := r.indexed()
	var names []string
	seen := map[[2]string]string{}
	for _, sig := range env.Signatures {
		w, ok := index.witnesses[sig.KeyID]
		if !ok {
			continue
		}
		t, err := w.verify(string(sig.Sig), WitnessBinding(peermap.DigestOf(env.Payload)))
		if err == nil {
			err = t.checkManifest(env.Payload)
		}
		if err != nil {
			return nil, fmt.Errorf("manifest: token of witness %s: %w", w.Name, err)
		}
		who := [2]string{w.Issuer, t.subject}
		if other, twice := seen[who]; twice {
			return nil, fmt.Errorf("manifest: token of witness %s: %w: the subject is that of witness %s; nobody counts twice",
				w.Name, ErrIdentity, other)
		}
		seen[who] = w.Name
		names = append(names, w.Name)
	}
	slices.Sort(names)
	return names, nil
}

// checkManifest demands that the token was alive when the manifest can have been signed: between the instant its content was
// compiled as of and its end. The binding to the digest, which nobody knows sooner, is what counts; this keeps clocks
// honest. Whether the token is alive now is for the controller that takes it (Root.VerifyWitness).
func (t witnessToken) checkManifest(payload []byte) error {
	m, err := peermap.ParseManifest(payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	skew := int64(MaxIssuerSkew / time.Second)
	switch {
	case t.issued < m.AsOf-skew:
		return fmt.Errorf("%w: claim iat says %s, the manifest was compiled at %s", ErrExpired, instant(t.issued), instant(m.AsOf))
	case t.issued > m.Expires+skew:
		return fmt.Errorf("%w: claim iat says %s, the manifest ended at %s", ErrFuture, instant(t.issued), instant(m.Expires))
	case t.expires <= t.issued || t.expires < m.AsOf-skew:
		return fmt.Errorf("%w: claim exp says %s, the manifest was compiled at %s", ErrExpired, instant(t.expires), instant(m.AsOf))
	}
	return nil
}

// VerifyWitness says which witness identity a token is of, at the instant now: signed by a pinned key of the issuer, alive,
// bound to bound (WitnessBinding, WitnessAccess), and matching. id, the identity's ID, may be empty: then the first that
// fits is taken. Errors: ErrIdentity, ErrSignature, ErrFormat, ErrTooLarge, ErrExpired, ErrFuture; none holds the token.
func (r *Root) VerifyWitness(id, token, bound string, now time.Time) (witness string, err error) {
	index := r.indexed()
	failed := fmt.Errorf("%w: trust root version %d lists no such witness identity", ErrIdentity, r.Version)
	for _, w := range r.WitnessIdentities {
		this := WitnessID(w.Name)
		if index.witnesses[this] == nil || id != "" && id != this {
			continue
		}
		t, err := index.witnesses[this].verify(token, bound)
		if err == nil {
			err = t.checkNow(now)
		}
		if err == nil {
			return this, nil
		}
		failed = fmt.Errorf("token of witness %s: %w", w.Name, err)
	}
	return "", failed
}

func (t witnessToken) checkNow(now time.Time) error {
	switch {
	case t.issued > now.Add(MaxClockSkew).Unix():
		return fmt.Errorf("%w: claim iat says %s, the clock here %s: %s apart", ErrFuture, instant(t.issued), instant(now.Unix()),
			time.Unix(t.issued, 0).Sub(now).Round(time.Second))
	case t.expires <= now.Add(-MaxClockSkew).Unix():
		return fmt.Errorf("%w: claim exp says %s, the clock here %s: %s apart", ErrExpired, instant(t.expires), instant(now.Unix()),
			now.Sub(time.Unix(t.expires, 0)).Round(time.Second))
	}
	return nil
}

// tokenHeader is the part of a JOSE header (RFC 7515) that matters.
type tokenHeader struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Critical  json.RawMessage `json:"crit"`
}

// tokenClaims are the claims of an ID token that this package judges itself.
type tokenClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	Nonce     string   `json:"nonce"`
	Issued    *int64   `json:"iat"`
	Expires   *int64   `json:"exp"`
	NotBefore *int64   `json:"nbf"`
}

// audience is one string or a list of them (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON takes both forms.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return errors.New("aud is neither a string nor a list of them")
	}
	*a = list
	return nil
}

// verify checks a compact ID token: size, signature by a pinned key, then issuer, binding and match. The claims are parsed
// only after the signature held.
func (w *pinnedIdentity) verify(token, bound string) (witnessToken, error) {
	if len(token) > MaxIDToken {
		return witnessToken{}, fmt.Errorf("%w: token of %d bytes, at most %d are read", ErrTooLarge, len(token), MaxIDToken)
	}
	payload, err := w.open(token)
	if err != nil {
		return witnessToken{}, err
	}
	var c tokenClaims
	all := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		return witnessToken{}, fmt.Errorf("%w: the token's claims are no JSON object", ErrFormat)
	}
	if err := json.Unmarshal(payload, &c); err != nil || c.Issued == nil || c.Expires == nil || c.Subject == "" {
		return witnessToken{}, fmt.Errorf("%w: claims iss, sub, aud, iat and exp of the token must be there and of their types", ErrFormat)
	}
	if c.Issuer != w.Issuer {
		return witnessToken{}, fmt.Errorf("%w: claim iss is %.160q, the rule wants %s", ErrIdentity, c.Issuer, w.Issuer)
	}
	if c.Nonce != bound && !slices.Contains(c.Audience, bound) {
		return witnessToken{}, fmt.Errorf("%w: neither nonce nor aud is %s: the token was made for something else", ErrMismatch, bound)
	}
	if err := matchAll(all, w.Match); err != nil {
		return witnessToken{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	issued := *c.Issued
	if c.NotBefore != nil {
		issued = max(issued, *c.NotBefore)
	}
	return witnessToken{subject: c.Subject, issued: issued, expires: *c.Expires}, nil
}

// open verifies the signature and gives the payload. The key decides the algorithm; the header has to say the same.
func (w *pinnedIdentity) open(token string) ([]byte, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: want a compact token of three segments", ErrFormat)
	}
	var raw [3][]byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
			return nil, fmt.Errorf("%w: segment %d of the token is not base64url", ErrFormat, i+1)
		}
		raw[i] = b
	}
	var h tokenHeader
	if err := json.Unmarshal(raw[0], &h); err != nil || h.Critical != nil {
		return nil, fmt.Errorf("%w: the token's header is no JSON object, or has critical extensions", ErrFormat)
	}
	signed := []byte(parts[0] + "." + parts[1])
	failed := fmt.Errorf("%w: key %.80q (%.20q) is not among the %d keys pinned for %s; if the issuer rotated its keys, list the new ones in the trust root",
		ErrSignature, h.KeyID, h.Algorithm, len(w.keys), w.Issuer)
	for _, key := range w.keys {
		if h.Algorithm != key.Algorithm || h.KeyID != "" && key.ID != "" && h.KeyID != key.ID {
			continue
		}
		err := key.Verify(signed, raw[2])
		if err == nil {
			return raw[1], nil
		}
		if !errors.Is(err, jwk.ErrSignature) {
			return nil, err
		}
		failed = fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil, failed
}
