package idp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// ErrRefused says that a provider did not let a person in or through; its message carries the page's text.
var ErrRefused = errors.New("the provider refused")

// maxPages bounds how far a person clicks; a flow of Dex has four pages.
const maxPages = 12

// Person is somebody with a browser: follows redirects, keeps cookies, fills in forms, and presses the button that
// grants access. Knows the pages of Dex and of Zitadel's example provider.
type Person struct {
	Login    string // what the form asks for: Dex an e-mail address (with LDAP a user name), Zitadel a user name
	Password string
	// Client reaches the provider: Dex.Client() and its like. Its cookie jar is not used.
	Client *http.Client
}

// Approve takes part in a device flow (RFC 8628 §3.3): opens the page, confirms the code, logs in and grants access.
func (p Person) Approve(ctx context.Context, verificationURIComplete string) error {
	_, err := p.browse(ctx, verificationURIComplete, "approve", "allowed")
	return err
}

// Deny is Approve, but in the end the person refuses. Zitadel tells the device; Dex lets it wait for the code's expiry.
func (p Person) Deny(ctx context.Context, verificationURIComplete string) error {
	_, err := p.browse(ctx, verificationURIComplete, "rejected", "denied")
	if errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "Approval rejected") {
		return nil // Dex answers a refusal with an error page
	}
	return err
}

// Follow takes part in an authorization code flow: opens the authorization URL, logs in and grants access, and follows
// the redirect to the client's loopback listener. It returns the address of that last page, code and all.
func (p Person) Follow(ctx context.Context, authURL string) (*url.URL, error) {
	return p.browse(ctx, authURL, "approve", "allowed")
}

// page is what a browser shows.
type page struct {
	url  *url.URL
	body []byte
	root *html.Node
}

// browse goes from page to page until there is nothing left to do on one, or it is another server's. choices are the
// values of the button to press where a provider asks for consent.
func (p Person) browse(ctx context.Context, start string, choices ...string) (*url.URL, error) {
	fail := func(err error) (*url.URL, error) { return nil, fmt.Errorf("person %s: %w", p.Login, err) }
	first, err := url.Parse(start)
	if err != nil {
		return fail(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return fail(err)
	}
	client := *p.Client
	client.Jar = jar
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return fail(err)
	}
	loggedIn := false
	for range maxPages {
		here, err := open(&client, req)
		if err != nil {
			return fail(err)
		}
		if here.url.Host != first.Host {
			return here.url, nil
		}
		var password bool
		req, password, err = p.next(ctx, here, choices)
		if err != nil {
			return fail(err)
		}
		if req == nil {
			return here.url, nil
		}
		if password && loggedIn {
			return fail(fmt.Errorf("%w the login: %s", ErrRefused, here.text()))
		}
		loggedIn = loggedIn || password
	}
	return fail(fmt.Errorf("still no end after %d pages", maxPages))
}

func open(client *http.Client, req *http.Request) (*page, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	root, err := html.Parse(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	here := &page{url: resp.Request.URL, body: body, root: root}
	if resp.StatusCode >= http.StatusBadRequest && here.url.Host == req.URL.Host {
		return nil, fmt.Errorf("%w at %s: %s: %s", ErrRefused, here.url.Path, resp.Status, here.text())
	}
	return here, nil
}

// buttonLink finds the buttons of Zitadel's consent page, which are scripts.
var buttonLink = regexp.MustCompile(`location\.href\s*=\s*'([^']+)'`)

// next decides what to do on a page: nil when there is nothing. password tells that the request carries the password.
func (p Person) next(ctx context.Context, here *page, choices []string) (req *http.Request, password bool, err error) {
	var chosen *html.Node
	var fields url.Values
	for _, form := range here.find("form") {
		f := p.fill(form)
		if choice := f.Get("approval"); choice != "" && !slices.Contains(choices, choice) {
			continue // the form of the other button
		}
		chosen, fields = form, f
		break
	}
	if chosen == nil {
		return p.nextLink(ctx, here, choices)
	}
	target, err := here.url.Parse(attr(chosen, "action"))
	if err != nil {
		return nil, false, err
	}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, fields.Has("password"), nil
}

func (p Person) nextLink(ctx context.Context, here *page, choices []string) (*http.Request, bool, error) {
	for _, button := range here.find("button") {
		m := buttonLink.FindStringSubmatch(attr(button, "onclick"))
		if m == nil {
			continue
		}
		target, err := here.url.Parse(m[1])
		if err != nil {
			return nil, false, err
		}
		if slices.Contains(choices, target.Query().Get("action")) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
			return req, false, err
		}
	}
	return nil, false, nil
}

// fill gives a form's fields: what it is prefilled with, and the person's name and password.
func (p Person) fill(form *html.Node) url.Values {
	fields := url.Values{}
	for n := range form.Descendants() {
		if n.Type != html.ElementNode || n.Data != "input" || attr(n, "name") == "" {
			continue
		}
		switch name := attr(n, "name"); name {
		case "login", "username":
			fields.Set(name, p.Login)
		case "password":
			fields.Set(name, p.Password)
		default:
			fields.Set(name, attr(n, "value"))
		}
	}
	return fields
}

func (pg *page) find(element string) []*html.Node {
	var found []*html.Node
	for n := range pg.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == element {
			found = append(found, n)
		}
	}
	return found
}

// text is what a person reads on the page, in one line.
func (pg *page) text() string {
	var words []string
	for n := range pg.root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "script" && n.Parent.Data != "style" {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	const most = 60
	return strings.Join(words[:min(len(words), most)], " ")
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
