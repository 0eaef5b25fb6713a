package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// visit is a browser that follows redirects, as a person's would.
func visit(t *testing.T) func(string) error {
	return func(url string) error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		if strings.Contains(string(page), "secret") {
			t.Errorf("the browser's last page repeats the code: %s", page)
		}
		return err
	}
}

// silent fails the test if an error's text holds anything secret or a control character.
func silent(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, word := range []string{"secret", "eyJ", "\x1b", commitment} {
		if strings.Contains(err.Error(), word) {
			t.Errorf("the error holds %q: %v", word, err)
		}
	}
}

func TestBrowser(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	s, err := f.Browser(t.Context(), visit(t))
	if err != nil {
		t.Fatal(err)
	}
	if s.Issuer != "corp" || s.RefreshToken != "secret-refresh" || s.TokenEndpoint != p.URL+"/token" || s.ClientID != "apex-cli" || s.IDToken == "" {
		t.Errorf("session lacks something: %+v", *s)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", *s, *s, *s, s); strings.Contains(text, "secret") {
		t.Errorf("printing a session shows it: %s", text)
	}
	if got := p.asked.Get("nonce"); got != commitment {
		t.Errorf("nonce %q", got)
	}
	if got := p.asked.Get("scope"); got != "openid profile offline_access" {
		t.Errorf("scope %q", got)
	}
	if got := p.polled[0].Get("Authorization"); got != "" || len(p.polled) != 1 {
		t.Errorf("a public client must name itself in the body only, once: %q in %d requests", got, len(p.polled))
	}
}

// TestClientSecret signs in at a provider that wants a secret of installed apps too, in every way that asks for tokens.
func TestClientSecret(t *testing.T) {
	issuer := idp.RunIssuer(t, idp.IssuerOptions{ClientSecret: "known-to-all", DeviceNonce: true})
	f := &Flow{
		Issuer: protocol.IssuerInfo{Name: "corp", URL: issuer.Issuer(), Audience: "apex-cli", ClientID: "apex-cli",
			ClientSecret: "known-to-all", Bound: true},
		Commitment: commitment, Client: oidcclient.New(nil, "apex/test"),
	}
	ways := map[string]func() (*Session, error){
		"browser": func() (*Session, error) { return f.Browser(t.Context(), visit(t)) },
		"device":  func() (*Session, error) { return f.Device(t.Context(), func(Prompt) {}) },
	}
	for name, way := range ways {
		s, err := way()
		if err != nil || s.ClientSecret != "known-to-all" {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, wrong := range []string{"", "another"} {
		f.Issuer.ClientSecret = wrong
		for name, way := range ways {
			if _, err := way(); !oidcclient.IsCode(err, "invalid_client") {
				t.Errorf("%s with the secret %q: %v", name, wrong, err)
			}
		}
	}
	for _, r := range issuer.Requests(idp.Authorize) {
		if r.Form.Has("client_secret") {
			t.Error("the secret travels through the browser")
		}
	}
}

// TestAnswers bends one part of the provider's answer at a time, in the flow by browser.
func TestAnswers(t *testing.T) {
	cases := map[string]struct {
		bend func(*provider)
		want error
		says string
	}{
		"another issuer":         {func(p *provider) { p.claims = map[string]any{"iss": "https://evil.example"} }, ErrToken, "claim iss"},
		"another audience":       {func(p *provider) { p.claims = map[string]any{"aud": "other"} }, ErrToken, "claim aud"},
		"audience in a list":     {func(p *provider) { p.claims = map[string]any{"aud": []string{"other", "apex-cli"}} }, nil, ""},
		"a bound audience":       {func(p *provider) { p.claims = map[string]any{"aud": "apex-cli:" + commitment} }, nil, ""},
		"bound to others":        {func(p *provider) { p.claims = map[string]any{"aud": "apex-cli:x"} }, ErrToken, "claim aud"},
		"another nonce":          {func(p *provider) { p.claims = map[string]any{"nonce": "replayed"} }, ErrToken, "claim nonce"},
		"no nonce":               {func(p *provider) { p.noNonce = true }, ErrUnbound, "claim nonce"},
		"a nonce that is none":   {func(p *provider) { p.claims = map[string]any{"nonce": 1} }, ErrToken, "claims"},
		"no ID token":            {func(p *provider) { p.claims = map[string]any{"none": true} }, ErrToken, "id_token"},
		"denied":                 {func(p *provider) { p.redirect = url.Values{"error": {"access_denied"}, "code": {""}} }, ErrDenied, ""},
		"failed":                 {func(p *provider) { p.redirect = url.Values{"error": {"server_error\x1b"}, "code": {""}} }, nil, "server_error"},
		"neither code or error":  {func(p *provider) { p.redirect = url.Values{"code": {""}} }, ErrToken, "neither"},
		"redirect of another":    {func(p *provider) { p.redirect = url.Values{"iss": {"https://evil.example"}} }, ErrToken, "parameter iss"},
		"redirect that names it": {func(p *provider) { p.redirect = url.Values{"iss": {p.URL}} }, nil, ""},
		"redirect that should name it": {func(p *provider) {
			p.metadata = map[string]any{"authorization_response_iss_parameter_supported": true}
		}, ErrToken, "parameter iss"},
		"code refused":      {func(p *provider) { p.answers = []string{"invalid_grant"} }, nil, "invalid_grant: because [31m of it"},
		"calls itself else": {func(p *provider) { p.metadata = map[string]any{"issuer": "https://evil.example"} }, nil, "spelled exactly so"},
		"plain http elsewhere": {func(p *provider) {
			p.metadata = map[string]any{"token_endpoint": "http://evil.example/token"}
		}, nil, "want https"},
		"no authorization": {func(p *provider) { p.metadata = map[string]any{"authorization_endpoint": ""} }, ErrUnsupported, ""},
		"scopes it lacks": {func(p *provider) {
			p.metadata = map[string]any{"scopes_supported": []string{"openid", "profile"}}
		}, nil, ""},
		"oversized discovery": {func(p *provider) {
			p.metadata = map[string]any{"padding": strings.Repeat("x", oidcclient.MaxBodyBytes)}
		}, nil, "sends more than"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &provider{}
			f := p.serve(t)
			c.bend(p)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			s, err := f.Browser(ctx, visit(t))
			silent(t, err)
			good := c.want == nil && c.says == ""
			if (err == nil) != good || good != (s != nil) {
				t.Fatalf("got %v", err)
			}
			if c.want != nil && !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want one that is %v and says %q", err, c.want, c.says)
			}
			if name == "scopes it lacks" && p.asked.Get("scope") != "openid profile" {
				t.Errorf("scope %q", p.asked.Get("scope"))
			}
		})
	}
}

// TestForeignRedirect shows that nobody who finds the port can end the waiting or slip in a code of theirs.
func TestForeignRedirect(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	_, err := f.Browser(t.Context(), func(auth string) error {
		u, err := url.Parse(auth)
		if err != nil {
			return err
		}
		back := u.Query().Get("redirect_uri")
		for _, bad := range []string{back + "?code=evil&state=guessed", back + "?code=evil", back + "?error=access_denied", strings.TrimSuffix(back, callbackPath) + "/"} {
			if got := status(t, bad, ""); got < 400 {
				t.Errorf("%s: status %d", bad, got)
			}
		}
		if got := status(t, back+"?code=evil&state="+u.Query().Get("state"), "rebound.example"); got != http.StatusNotFound {
			t.Errorf("a page of another host name: status %d", got)
		}
		return visit(t)(auth)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, url, host string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestCallback(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	for _, bad := range []string{"0.0.0.0:0", "example.com:80", "nonsense", "192.0.2.1:1"} {
		f.Callback = bad
		if _, err := f.Browser(t.Context(), visit(t)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	f.Callback = "localhost:0"
	if _, err := f.Browser(t.Context(), func(auth string) error {
		page, err := url.Parse(auth)
		if err != nil {
			return err
		}
		// What Entra ID compares with what is registered: the word localhost and the path, and not the port.
		if got := page.Query().Get("redirect_uri"); !regexp.MustCompile(`^http://localhost:[1-9][0-9]*/callback$`).MatchString(got) {
			t.Errorf("redirect_uri %q", got)
		}
		return visit(t)(auth)
	}); err != nil {
		t.Error(err)
	}
}

func TestBrowserNobodyCame(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := f.Browser(ctx, func(string) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = f.Browser(late, func(string) error { return nil }); !errors.Is(err, ErrExpired) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("too late: %v", err)
	}
}

func TestPaste(t *testing.T) {
	p := &provider{}
	f := p.serve(t)
	var state string
	show := func(auth string) {
		u, err := url.Parse(auth)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Get(auth)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		state = u.Query().Get("state")
		if last := resp.Header.Get("Location"); !strings.HasPrefix(last, "http://127.0.0.1:") {
			t.Errorf("redirect to %s", last)
		}
	}
	var reasons []error
	texts := []string{"", "what?", "http://127.0.0.1:50000/callback?code=secret-code&state=other", ""}
	s, err := f.Paste(t.Context(), show, func(_ context.Context, why error) (string, error) {
		reasons = append(reasons, why)
		texts[3] = " http://127.0.0.1:50000/callback?code=secret-code&state=" + state + "#x \n"
		return texts[len(reasons)-1], nil
	})
	if err != nil || s.IDToken == "" {
		t.Fatal(err)
	}
	if reasons[0] != nil || !errors.Is(reasons[1], ErrPaste) || !errors.Is(reasons[2], ErrPaste) || !errors.Is(reasons[3], errForeign) {
		t.Errorf("reasons given: %v", reasons)
	}
	_, err = f.Paste(t.Context(), show, func(context.Context, error) (string, error) { return "", io.EOF })
	if !errors.Is(err, io.EOF) {
		t.Errorf("nothing to paste: %v", err)
	}
	_, err = f.Paste(t.Context(), show, func(context.Context, error) (string, error) { return "error=access_denied&state=" + state, nil })
	if !errors.Is(err, ErrDenied) {
		t.Errorf("denied: %v", err)
	}
}

// TestDevice runs the device grant on a clock of its own, so that the intervals of RFC 8628 are kept and cost nothing.
func TestDevice(t *testing.T) {
	cases := map[string]struct {
		answers []string
		device  map[string]any
		unbound bool
		noNonce bool
		want    error
		says    string
		took    time.Duration
	}{
		"at once":                {took: 5 * time.Second},
		"pending":                {answers: []string{"authorization_pending", "authorization_pending"}, took: 15 * time.Second},
		"slow down":              {answers: []string{"slow_down", "slow_down"}, took: (5 + 10 + 15) * time.Second},
		"denied":                 {answers: []string{"authorization_pending", "access_denied"}, want: ErrDenied},
		"expired":                {answers: []string{"expired_token"}, want: ErrExpired},
		"expired unsaid":         {answers: many("authorization_pending", 300), want: ErrExpired, took: 10 * time.Minute},
		"refused":                {answers: []string{"invalid_client"}, says: "invalid_client"},
		"interval of nonsense":   {device: map[string]any{"interval": -7}, took: 5 * time.Second},
		"interval of years":      {device: map[string]any{"interval": 1 << 40}, took: time.Minute},
		"no code":                {device: map[string]any{"user_code": ""}, says: "lacks"},
		"page of nonsense":       {device: map[string]any{"verification_uri": "javascript:alert(1)"}, says: "lacks"},
		"no nonce, bound":        {noNonce: true, want: ErrUnbound, says: "redirect"},
		"no nonce, not bound":    {noNonce: true, unbound: true, took: 5 * time.Second},
		"complete page nonsense": {device: map[string]any{"verification_uri_complete": "javascript:1"}, took: 5 * time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &provider{URL: "https://provider.example", answers: c.answers, device: c.device, noNonce: c.noNonce}
				f := p.flow(inMemory{p.handler()})
				f.Issuer.Bound = !c.unbound
				began := time.Now()
				var shown Prompt
				s, err := f.Device(t.Context(), func(d Prompt) { shown = d })
				silent(t, err)
				good := c.want == nil && c.says == ""
				if (err == nil) != good || good != (s != nil) {
					t.Fatalf("got %v", err)
				}
				if c.want != nil && !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want one that is %v and says %q", err, c.want, c.says)
				}
				if took := time.Since(began); c.took != 0 && took.Round(time.Second) != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if good && (shown.Code != "ABCD-EFGH" || shown.URL != "https://provider.example/activate") {
					t.Errorf("shown %+v", shown)
				}
				if strings.HasPrefix(shown.Complete, "javascript") {
					t.Error("an address to open that is none was shown")
				}
			})
		})
	}
}

func many(code string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = code
	}
	return list
}

// TestDeviceUnreachable: a provider that does not answer for a while is asked again, ever later.
func TestDeviceUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{URL: "https://provider.example"}
		gone := 2
		f := p.flow(transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/token" && gone > 0 {
				gone--
				return nil, errors.New("connection refused")
			}
			return inMemory{p.handler()}.RoundTrip(r)
		}))
		began := time.Now()
		if _, err := f.Device(t.Context(), func(Prompt) {}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != (5+10+20)*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestUnsupported(t *testing.T) {
	p := &provider{metadata: map[string]any{"device_authorization_endpoint": ""}}
	f := p.serve(t)
	if _, err := f.Device(t.Context(), nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device endpoint: %v", err)
	}
	f.Issuer.ClientID = ""
	if _, err := f.Browser(t.Context(), nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no client: %v", err)
	}
	f = (&provider{URL: "http://provider.example"}).flow(http.DefaultTransport)
	if _, err := f.Browser(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("a provider without TLS: %v", err)
	}
}

func TestOpener(t *testing.T) {
	env := func(set ...string) Environ {
		return func(name string) string {
			for _, s := range set {
				if v, ok := strings.CutPrefix(s, name+"="); ok {
					return v
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		goos string
		env  Environ
		has  bool
		argv string
	}{
		{"linux", env(), false, "xdg-open U"},
		{"linux", env("DISPLAY=:0"), true, "xdg-open U"},
		{"linux", env("WAYLAND_DISPLAY=wayland-0"), true, "xdg-open U"},
		{"linux", env("DISPLAY=:10", "SSH_CONNECTION=a b c d"), false, "xdg-open U"},
		{"linux", env("BROWSER=firefox", "SSH_TTY=/dev/pts/1"), true, "firefox U"},
		{"darwin", env(), true, "open U"},
		{"windows", env(), true, "rundll32 url.dll,FileProtocolHandler U"},
	} {
		if got := HasBrowser(c.goos, c.env); got != c.has {
			t.Errorf("%s: has browser: %v", c.goos, got)
		}
		if got := strings.Join(opener(c.goos, c.env, "U"), " "); got != c.argv {
			t.Errorf("%s: %s", c.goos, got)
		}
	}
	for _, bad := range []string{"javascript:1", "file:///etc/passwd", "http://example.com", "https://a/ b"} {
		if Open(t.Context(), bad) == nil {
			t.Errorf("%s was opened", bad)
		}
	}
	for page, want := range map[string]bool{
		"https://a.example/": true, "http://localhost:1/": true, "http://127.0.0.1:1/": true, "http://127.9.8.7:1/": true, "http://[::1]:1/": true,
		"http://128.0.0.1/": false, "http://127.0.0.1.example/": false, "http://127.1/": false, "http://localhost.example/": false,
	} {
		if isPage(page) != want {
			t.Errorf("%s is a page to open: %v", page, !want)
		}
	}
}

func FuzzPasted(f *testing.F) {
	for _, seed := range []string{"", "?", "http://127.0.0.1:1/callback?code=a&state=s", "code=a&state=s", "http://[::1", "%zz?%zz", "?state=s&error=e"} {
		f.Add(seed)
	}
	p := &provider{URL: "https://provider.example"}
	flow := &codeFlow{Flow: p.flow(nil), provider: &oidcclient.Provider{}, state: "s"}
	f.Fuzz(func(t *testing.T, text string) {
		code, err := flow.pasted(text)
		if err == nil && (code == "" || !strings.Contains(text, "state=s")) {
			t.Errorf("%q gave a code", text)
		}
	})
}
