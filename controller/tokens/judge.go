package tokens

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/claims"
)

// algorithms are those that count: signatures that only the issuer can make.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// draft is a token taken apart; nothing in it is verified.
type draft struct {
	jws     *jose.JSONWebSignature
	signed  string // the first two segments
	payload []byte
}

// header is what is read of the JOSE header before go-jose does.
type header struct {
	Algorithm string          `json:"alg"`
	Type      string          `json:"typ"`
	Critical  json.RawMessage `json:"crit"`
}

// types are the `typ` that an ID token, or a client's access token (RFC 9068), may have. Logout tokens and proofs are neither.
var types = []string{"", "jwt", "at+jwt", "application/at+jwt"}

// parse takes a compact token apart. Errors: ErrMalformed, ErrAlgorithm.
func parse(raw string) (draft, error) {
	if len(raw) > protocol.MaxTokenBytes {
		return draft{}, refuse(ErrMalformed, "", "%d bytes, at most %d are read", len(raw), protocol.MaxTokenBytes)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return draft{}, refuse(ErrMalformed, "", "want three segments with dots between them")
	}
	for i, part := range parts {
		if !canonical(part) {
			return draft{}, refuse(ErrMalformed, "", "the %s is not base64url in its one spelling", [...]string{"header", "payload", "signature"}[i])
		}
	}
	head, err := base64.RawURLEncoding.DecodeString(parts[0])
	var h header
	if err := errors.Join(err, json.Unmarshal(head, &h)); err != nil {
		return draft{}, refuse(ErrMalformed, "", "the header is not JSON")
	}
	switch {
	case !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Algorithm)):
		return draft{}, refuse(ErrAlgorithm, "", "alg is %.20q; the issuer must sign with RS, PS, ES or EdDSA", h.Algorithm)
	case !slices.Contains(types, strings.ToLower(h.Type)):
		return draft{}, refuse(ErrMalformed, "", "typ is %.40q, which is no ID token", h.Type)
	case h.Critical != nil:
		return draft{}, refuse(ErrMalformed, "", "the header has critical extensions")
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		return draft{}, refuse(ErrMalformed, "", "it is no signed token")
	}
	return draft{jws: jws, signed: parts[0] + "." + parts[1], payload: jws.UnsafePayloadWithoutVerification()}, nil
}

// canonical reports base64url without padding as RFC 7515 has it, in the one spelling of what it says. The decoder skips
// line breaks and overlooks the last bits, and the signature holds for what is decoded: of a token with several spellings
// each would be another one, to be used once.
func canonical(segment string) bool {
	data, err := base64.RawURLEncoding.DecodeString(segment)
	return err == nil && base64.RawURLEncoding.EncodeToString(data) == segment
}

// judge holds the claims of a token against the demand, at the instant now. It needs no key: before a key is fetched it
// keeps garbage from causing that, and what it gives counts only once the signature held.
func (d draft) judge(demand Issuer, now time.Time) (*Verified, error) {
	all, err := claims.Decode(d.payload)
	if err != nil {
		return nil, refuse(ErrMalformed, "", "%v", err)
	}
	v := &Verified{Issuer: demand.URL, Claims: all}
	if iss, _ := all["iss"].(string); iss != demand.URL {
		return nil, refuse(ErrIssuer, "iss", "%.160q, want exactly %q", iss, demand.URL)
	}
	if v.Subject, _ = all["sub"].(string); v.Subject == "" || len(v.Subject) > claims.MaxValue {
		return nil, refuse(ErrMalformed, "sub", "want a string of 1 to %d bytes", claims.MaxValue)
	}
	if v.Nonce, err = optionalString(all, "nonce"); err != nil {
		return nil, err
	}
	if err := v.judgeAudience(demand); err != nil {
		return nil, err
	}
	if err := v.judgeTimes(now, min(max(demand.Leeway, 0), MaxLeeway)); err != nil {
		return nil, err
	}
	if _, err := optionalString(all, "jti"); err != nil {
		return nil, err
	}
	v.ID = replayID(demand.URL, all, d.signed)
	return v, nil
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func optionalString(all map[string]any, name string) (string, error) {
	value, there := all[name]
	s, ok := value.(string)
	if there && !ok || len(s) > claims.MaxValue {
		return "", refuse(ErrMalformed, name, "want a string of at most %d bytes", claims.MaxValue)
	}
	return s, nil
}

func (v *Verified) judgeAudience(demand Issuer) error {
	switch aud := v.Claims["aud"].(type) {
	case string:
		v.Audience = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return refuse(ErrMalformed, "aud", "want a string or a list of strings")
			}
			v.Audience = append(v.Audience, s)
		}
	}
	if !slices.ContainsFunc(v.Audience, func(a string) bool { return a != "" && slices.Contains(demand.Audiences, a) }) {
		return refuse(ErrAudience, "aud", "%.200q, want one of %q", strings.Join(v.Audience, ", "), demand.Audiences)
	}
	return nil
}

// judgeTimes compares the token's times with now, leeway either way.
func (v *Verified) judgeTimes(now time.Time, leeway time.Duration) error {
	expires, ok := instant(v.Claims["exp"])
	if !ok {
		return refuse(ErrMalformed, "exp", "want the seconds since 1970")
	}
	issued, ok := instant(v.Claims["iat"])
	if !ok {
		return refuse(ErrMalformed, "iat", "want the seconds since 1970")
	}
	v.Issued, v.Expires = issued, expires
	from, name := issued, "iat"
	if _, there := v.Claims["nbf"]; there {
		nbf, ok := instant(v.Claims["nbf"])
		if !ok {
			return refuse(ErrMalformed, "nbf", "want the seconds since 1970")
		}
		if nbf.After(from) {
			from, name = nbf, "nbf"
		}
	}
	switch {
	case from.After(now.Add(leeway)):
		return refuse(ErrNotYet, name, "the token is valid from %s, this controller's clock says %s: %s apart, %s are allowed; "+
			"compare the clocks of provider and controller", clock(from), clock(now), apart(from, now), leeway)
	case !expires.After(now.Add(-leeway)):
		return refuse(ErrExpired, "exp", "the token was valid until %s, this controller's clock says %s: %s apart, %s are allowed; "+
			"get a new token, or compare the clocks of provider and controller", clock(expires), clock(now), apart(now, expires), leeway)
	case !expires.After(issued):
		return refuse(ErrMalformed, "exp", "the token ends at %s, before it was issued", clock(expires))
	case expires.Sub(issued) > MaxLife:
		return refuse(ErrLife, "exp", "the token lives %s, at most %s are accepted; let the provider issue shorter ones",
			expires.Sub(issued), MaxLife)
	}
	return nil
}

// instant reads a NumericDate (RFC 7519, section 2), which may have a fraction.
func instant(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || f < 0 || f > math.MaxInt32*16 {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0).UTC(), true
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func apart(later, earlier time.Time) time.Duration { return later.Sub(earlier).Round(time.Second) }
