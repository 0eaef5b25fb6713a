package idp

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"time"
)

// deviceGrant is the grant type of RFC 8628 §3.4.
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// flow is what a code, a device code or a refresh token stands for.
type flow struct {
	nonce     string
	challenge string // PKCE, S256
}

// Answer is what the token endpoint says to a request.
type Answer func(i *Issuer, r Request) (status int, body map[string]any)

// Answer queues answers for the token endpoint, one for each request; the last one stays. Without any, each request
// gets a sound token for the subject "somebody", with the client as audience.
func (i *Issuer) Answer(answers ...Answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answers = answers
}

// Fail is an error answer (RFC 6749 §5.2).
func Fail(status int, code, description string) Answer {
	return func(*Issuer, Request) (int, map[string]any) {
		return status, object{"error": code, "error_description": description}
	}
}

// Pending, SlowDown, Denied and CodeExpired are the errors of a device flow (RFC 8628 §3.5).
func Pending() Answer     { return Fail(http.StatusBadRequest, "authorization_pending", "") }
func SlowDown() Answer    { return Fail(http.StatusBadRequest, "slow_down", "") }
func Denied() Answer      { return Fail(http.StatusBadRequest, "access_denied", "") }
func CodeExpired() Answer { return Fail(http.StatusBadRequest, "expired_token", "") }

// InvalidGrant is what a used, revoked or expired refresh token gets.
func InvalidGrant() Answer { return Fail(http.StatusBadRequest, "invalid_grant", "") }

// Grant answers with an ID token of these claims, an opaque access token and a new refresh token. The nonce of the flow
// is added where the options say so, unless the claims have one.
func Grant(claims Claims, defects ...Defect) Answer {
	return func(i *Issuer, r Request) (int, map[string]any) {
		f, err := i.resume(r)
		if err != nil {
			return http.StatusBadRequest, object{"error": "invalid_grant", "error_description": err.Error()}
		}
		own := claims
		if f.nonce != "" && own["nonce"] == nil {
			own = own.With("nonce", f.nonce)
		}
		return http.StatusOK, object{
			"id_token": i.Mint(own, defects...), "access_token": i.remember("access", flow{}), "token_type": "Bearer",
			"expires_in": 600, "refresh_token": i.remember("refresh", flow{nonce: f.nonce}),
		}
	}
}

// NoIDToken answers with an access token only, as a plain OAuth server does.
func NoIDToken() Answer {
	return func(i *Issuer, _ Request) (int, map[string]any) {
		return http.StatusOK, object{"access_token": i.remember("access", flow{}), "token_type": "Bearer"}
	}
}

// resume finds the flow that a token request goes on with, and checks PKCE.
func (i *Issuer) resume(r Request) (flow, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch grant := r.Form.Get("grant_type"); grant {
	case "authorization_code":
		f, ok := i.flows[r.Form.Get("code")]
		if !ok {
			return flow{}, fmt.Errorf("unknown code")
		}
		delete(i.flows, r.Form.Get("code"))
		verifier := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		if f.challenge != "" && f.challenge != encode(verifier[:]) {
			return flow{}, fmt.Errorf("the code_verifier does not fit")
		}
		return f, nil
	case deviceGrant:
		return i.flows[r.Form.Get("device_code")], nil
	case "refresh_token":
		f, ok := i.flows[r.Form.Get("refresh_token")]
		if !ok {
			return flow{}, fmt.Errorf("unknown refresh token")
		}
		if nonce := r.Form.Get("nonce"); nonce != "" && i.options.RefreshNonce {
			f.nonce = nonce
		}
		return f, nil
	default:
		return flow{}, nil
	}
}

// remember makes a code or token that stands for a flow.
func (i *Issuer) remember(kind string, f flow) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.issued++
	id := fmt.Sprintf("%s-%d", kind, i.issued)
	i.flows[id] = f
	return id
}

func (i *Issuer) serveTokens(w http.ResponseWriter, r *http.Request) {
	request := Request{Tokens, maps.Clone(r.Form), r.Header.Clone()}
	clientID := request.Form.Get("client_id")
	secret := request.Form.Get("client_secret")
	if id, password, ok := r.BasicAuth(); ok {
		clientID, secret = id, password
	}
	if want := i.options.ClientSecret; want != "" && secret != want {
		writeJSON(w, http.StatusUnauthorized, object{"error": "invalid_client", "error_description": "the client secret is missing or wrong"})
		return
	}
	answer := i.nextAnswer()
	if answer == nil {
		answer = Grant(i.Claims(clientID, "somebody", time.Now()))
	}
	status, body := answer(i, request)
	writeJSON(w, status, body)
}

func (i *Issuer) nextAnswer() Answer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.answers) == 0 {
		return nil
	}
	answer := i.answers[0]
	if len(i.answers) > 1 {
		i.answers = i.answers[1:]
	}
	return answer
}

func (i *Issuer) serveDevice(w http.ResponseWriter, r *http.Request) {
	f := flow{}
	if i.options.DeviceNonce {
		f.nonce = r.Form.Get("nonce")
	}
	writeJSON(w, http.StatusOK, object{
		"device_code": i.remember("device", f), "user_code": "SIMU-LATE", "verification_uri": i.issuer + "/device",
		"verification_uri_complete": i.issuer + "/device?user_code=SIMU-LATE",
		"expires_in":                i.options.DeviceLifetime, "interval": i.options.DeviceInterval,
	})
}

// serveAuthorize approves at once. It redirects to loopback addresses only.
func (i *Issuer) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	target, err := url.Parse(r.Form.Get("redirect_uri"))
	if err != nil || target.Scheme != "http" || !net.ParseIP(target.Hostname()).IsLoopback() {
		http.Error(w, "redirect_uri must be http at a loopback address", http.StatusBadRequest)
		return
	}
	code := i.remember("code", flow{nonce: r.Form.Get("nonce"), challenge: r.Form.Get("code_challenge")})
	q := target.Query()
	q.Set("code", code)
	q.Set("state", r.Form.Get("state"))
	target.RawQuery = q.Encode()
	http.Redirect(w, r, target.String(), http.StatusFound)
}
