package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/apex-network/apex/internal/oidcclient"
)

// Prompt is what a person needs to approve a device (RFC 8628 §3.3).
type Prompt struct {
	// Code is to be typed in at URL.
	Code, URL string
	// Complete is URL with the code in it; empty if the provider gives none.
	Complete string
	// Expires is when the code ends; zero if the provider does not say.
	Expires time.Time
}

// Waiting between two questions for a device's token, RFC 8628 §3.2 and §3.5.
const (
	defaultInterval = 5 * time.Second
	slower          = 5 * time.Second // what slow_down adds
	maxInterval     = time.Minute
	// maxDeviceLife bounds how long is waited whatever the provider says.
	maxDeviceLife = time.Hour
)

// deviceCode is the answer of the device authorization endpoint, RFC 8628 §3.2. Both figures are in seconds.
type deviceCode struct {
	Device   string `json:"device_code"`
	User     string `json:"user_code"`
	URL      string `json:"verification_uri"`
	Complete string `json:"verification_uri_complete"`
	Life     int64  `json:"expires_in"`
	Interval int64  `json:"interval"`
}

// Device signs in with a code that a person types in on any other machine (RFC 8628). Few providers carry a nonce
// through this way; where the network asks for bound tokens the result is then ErrUnbound.
func (f *Flow) Device(ctx context.Context, show func(Prompt)) (*Session, error) {
	p, err := f.begin(ctx)
	if err != nil {
		return nil, err
	}
	if p.DeviceEndpoint == "" {
		return nil, fmt.Errorf("%w: provider %s has no device authorization endpoint", ErrUnsupported, f.Issuer.Name)
	}
	code, err := f.deviceCode(ctx, p)
	if err != nil {
		return nil, f.failed(ctx, "ask for a device code", err)
	}
	expires := time.Now().Add(bound(code.Life, maxDeviceLife, maxDeviceLife))
	show(Prompt{Code: clip(code.User), URL: code.URL, Complete: code.Complete, Expires: expires})
	ctx, cancel := context.WithDeadline(ctx, expires)
	defer cancel()
	tokens, err := f.poll(ctx, p, code)
	if err != nil {
		return nil, f.failed(ctx, "wait for approval", err)
	}
	return f.session(p, tokens, nonceOffered)
}

// deviceCode asks for a code. Addresses in the answer are shown to a person, who opens them: only web pages will do.
func (f *Flow) deviceCode(ctx context.Context, p *oidcclient.Provider) (deviceCode, error) {
	auth := f.auth()
	// RFC 6749 §3.1 has a provider leave out what it does not know: the nonce costs nothing and binds the token where
	// it is known.
	form := url.Values{"scope": {strings.Join(f.scopes(p), " ")}, "nonce": {f.Commitment}}
	body, err := f.Client.Post(ctx, p.DeviceEndpoint, form, &auth)
	if err != nil {
		return deviceCode{}, err
	}
	var code deviceCode
	if json.Unmarshal(body, &code) != nil || code.Device == "" || code.User == "" || !isPage(code.URL) {
		return deviceCode{}, errors.New("the answer lacks a code, or a page to type it in")
	}
	if !isPage(code.Complete) {
		code.Complete = ""
	}
	return code, nil
}

// poll asks for the tokens until there are some, the provider says no, or ctx ends with the code. A question that
// gets no answer is asked again, each time later.
func (f *Flow) poll(ctx context.Context, p *oidcclient.Provider, code deviceCode) (oidcclient.Tokens, error) {
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code.Device}}
	interval := bound(code.Interval, defaultInterval, maxInterval)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return oidcclient.Tokens{}, ctx.Err()
		case <-timer.C:
		}
		tokens, err := f.Client.Token(ctx, p.TokenEndpoint, form, f.auth())
		switch {
		case err == nil:
			return tokens, nil
		case oidcclient.IsCode(err, "authorization_pending"):
		case oidcclient.IsCode(err, "slow_down"):
			interval += slower
		case errors.Is(err, oidcclient.ErrUnavailable):
			interval = min(2*interval, maxInterval)
		default:
			return oidcclient.Tokens{}, err
		}
		timer.Reset(interval)
	}
}

// bound reads a number of seconds that a provider gave: otherwise if it is none, never more than most.
func bound(seconds int64, otherwise, most time.Duration) time.Duration {
	switch {
	case seconds <= 0:
		return otherwise
	case seconds > int64(most/time.Second):
		return most
	}
	return time.Duration(seconds) * time.Second
}
