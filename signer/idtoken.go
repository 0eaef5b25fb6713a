package signer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/claims"
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
// fits is taken. Errors, of each that does not: ErrUnknownKey (there is none), ErrIdentity, ErrSignature, ErrFormat, ErrTooLarge, ErrExpired, ErrFuture; none holds the token.
func (r *Root) VerifyWitness(id, token, bound string, now time.Time) (witness string, err error) {
	index := r.indexed()
	var failed error
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
		failed = errors.Join(failed, fmt.Errorf("token of witness %s: %w", w.Name, err))
	}
	if failed == nil {
		failed = fmt.Errorf("%w: trust root version %d lists no such witness identity", ErrUnknownKey, r.Version)
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
	all, err := claims.Decode(payload)
	if err != nil {
		return witnessToken{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	t := witnessToken{}
	var there [2]bool
	t.subject, _ = all["sub"].(string)
	t.issued, there[0] = seconds(all, "iat")
	t.expires, there[1] = seconds(all, "exp")
	if t.subject == "" || !there[0] || !there[1] {
		return witnessToken{}, fmt.Errorf("%w: the token needs the claims sub (text), iat and exp (whole seconds)", ErrFormat)
	}
	if iss, _ := all["iss"].(string); iss != w.Issuer {
		return witnessToken{}, fmt.Errorf("%w: claim iss is %.160q, the rule wants %s", ErrIdentity, iss, w.Issuer)
	}
	if !w.carries(all, bound) {
		return witnessToken{}, fmt.Errorf("%w: claim aud is not %s, nor is the nonce under a rule that names the client: "+
			"the token was made for something else", ErrMismatch, bound)
	}
	if err := matchAll(all, w.Match); err != nil {
		return witnessToken{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if from, ok := seconds(all, "nbf"); ok {
		t.issued = max(t.issued, from)
	}
	return t, nil
}

// seconds reads a NumericDate (RFC 7519, section 2) without a fraction.
func seconds(all map[string]any, name string) (int64, bool) {
	n, _ := all[name].(json.Number)
	v, err := n.Int64()
	return v, err == nil && v > 0 && v < 1<<40
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
