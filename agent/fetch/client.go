// Package fetch talks to controllers on behalf of one node in one zone. It moves bytes and decides nothing about them:
// what it returns is unverified, and its caller hands it to package signer.
//
// What it does promise is that no server can hurt the agent by how it answers. Every body has a cap before the first
// byte is read; every exchange has a deadline that grows only with the bytes that really arrive, so that a server that
// trickles (a slow retrieval attack, or a half-dead connection) is left; redirects are refused; and an error names the
// controller and what was asked.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Errors that callers tell apart.
var (
	// ErrUnreachable: no answer came, or none that could be from a controller.
	ErrUnreachable = errors.New("controller cannot be reached")
	// ErrSlow: the server sent too little in too long a time.
	ErrSlow = errors.New("the server sends too slowly")
	// ErrTooLarge: the server sent, or announced, more than the cap.
	ErrTooLarge = errors.New("the server sends more than is allowed")
	// ErrNotFound: the controller has no such thing, or not for this node.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the controller does not accept this node's proof.
	ErrDenied = errors.New("the controller does not accept this node")
)

// Options of a Client.
type Options struct {
	Controllers         []string // base URLs, in order of preference
	Network, Zone, Node string
	// Identity gives the node's identity key; it is asked for each request, for a rotation changes it.
	Identity func() signer.PrivateKey
	// Transport makes connections; see NewTransport.
	Transport *http.Transport
	Now       func() time.Time // nil: time.Now
	UserAgent string
	// Grace is how long an exchange may take on top of MinRate: 0 means 15 s. MinRate is in bytes per second, 0: 4 KiB.
	Grace   time.Duration
	MinRate int
}

// Client asks one controller at a time and moves to the next when one fails. Its methods may be called concurrently.
type Client struct {
	opt    Options
	http   *http.Client
	bases  []*url.URL
	active atomic.Int64
	heard  atomic.Int64 // Unix nanoseconds of the last byte from any controller
	remote atomic.Pointer[netip.AddrPort]

	mu    sync.Mutex
	stamp tagged // the newest timestamp and its ETag
}

type tagged struct {
	base string
	etag string
	body []byte
}

// New checks the URLs. It does not connect.
func New(opt Options) (*Client, error) {
	if len(opt.Controllers) == 0 {
		return nil, errors.New("no controller URL")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Grace == 0 {
		opt.Grace = 15 * time.Second
	}
	if opt.MinRate == 0 {
		opt.MinRate = 4 << 10
	}
	c := &Client{opt: opt, http: newHTTP(opt.Transport)}
	for _, raw := range opt.Controllers {
		base, err := url.Parse(raw)
		if err != nil || base.Host == "" {
			return nil, fmt.Errorf("controller URL %q: want https://host[:port]", raw)
		}
		if base.Path == "" {
			base.Path = "/" // JoinPath keeps a path absolute only if it begins so
		}
		c.bases = append(c.bases, base)
	}
	return c, nil
}

func newHTTP(transport *http.Transport) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Controller is the base URL that is asked now.
func (c *Client) Controller() string { return c.base().String() }

// LastHeard is when the last byte came from a controller; zero if none ever did.
func (c *Client) LastHeard() time.Time {
	if ns := c.heard.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// Remote is the address that the last connection went to: of a controller, or of the proxy before it. Invalid before the
// first.
func (c *Client) Remote() netip.AddrPort {
	if remote := c.remote.Load(); remote != nil {
		return *remote
	}
	return netip.AddrPort{}
}

// Rotate makes the next controller the active one; a caller that was refused or deceived by one tries another.
func (c *Client) Rotate() { c.active.Add(1) }

// CloseIdle drops kept connections, for example after the network changed.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

func (c *Client) base() *url.URL { return c.bases[c.active.Load()%int64(len(c.bases))] }

// Root fetches the signed trust root of a version. ErrNotFound above the newest.
func (c *Client) Root(ctx context.Context, version uint64) ([]byte, error) {
	path := protocol.RootPath(c.opt.Network, c.opt.Zone, version)
	body, _, err := c.get(ctx, c.http, ask{path: path, what: fmt.Sprintf("trust root %d", version), limit: peermap.MaxRootBytes})
	return body, err
}

// Timestamp fetches the zone's current signed timestamp. It costs the controller a 304 while nothing changed.
func (c *Client) Timestamp(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	known := c.stamp
	c.mu.Unlock()
	base := c.base().String()
	a := ask{path: protocol.TimestampPath(c.opt.Network, c.opt.Zone), what: "timestamp", limit: peermap.MaxTimestampBytes}
	if known.base == base {
		a.etag = known.etag
	}
	body, resp, err := c.get(ctx, c.http, a)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusNotModified {
		return known.body, nil
	}
	c.mu.Lock()
	c.stamp = tagged{base, resp.Header.Get("ETag"), body}
	c.mu.Unlock()
	return body, nil
}

// Manifest fetches the signed manifest whose payload has this digest.
func (c *Client) Manifest(ctx context.Context, digest peermap.Digest) ([]byte, error) {
	path := protocol.ManifestPath(c.opt.Network, c.opt.Zone, digest)
	body, _, err := c.get(ctx, c.http, ask{path: path, what: "manifest " + short(digest), limit: peermap.MaxManifestBytes})
	return body, err
}

// View fetches this node's view and proof for a manifest.
func (c *Client) View(ctx context.Context, manifest peermap.Digest) (protocol.ViewResponse, error) {
	a := ask{
		path: protocol.ViewPath(c.opt.Network, c.opt.Zone, c.opt.Node), what: "view", limit: protocol.MaxViewResponseBytes,
		query: url.Values{protocol.QueryManifest: {manifest.String()}},
	}
	body, _, err := c.get(ctx, c.http, a)
	if err != nil {
		return protocol.ViewResponse{}, err
	}
	var out protocol.ViewResponse
	if err := protocol.Decode(body, protocol.MaxViewResponseBytes, &out); err != nil {
		return protocol.ViewResponse{}, fmt.Errorf("view from %s: %w", c.Controller(), err)
	}
	return out, nil
}

// Artefact fetches a class or block of this node's view, at most limit bytes of plain artefact. The bytes hash to digest.
func (c *Client) Artefact(ctx context.Context, digest peermap.Digest, limit int) ([]byte, error) {
	path := protocol.ArtefactPath(c.opt.Network, c.opt.Zone, c.opt.Node, digest)
	what := "artefact " + short(digest)
	// A frame of incompressible bytes is a little longer than they are.
	body, resp, err := c.get(ctx, c.http, ask{path: path, what: what, limit: limit + 1024, accept: string(protocol.Zstd)})
	if err != nil {
		return nil, err
	}
	encoding := protocol.Encoding(resp.Header.Get("Content-Encoding"))
	if encoding == "" {
		encoding = protocol.Identity
	}
	plain, err := protocol.Open(encoding, body, nil, digest, limit)
	if err != nil {
		return nil, fmt.Errorf("%s from %s: %w", what, c.Controller(), err)
	}
	return plain, nil
}

// Report sends the node's status.
func (c *Client) Report(ctx context.Context, status protocol.NodeStatus) error {
	body, err := protocol.Encode(status)
	if err != nil {
		return err
	}
	path := protocol.ReportPath(c.opt.Network, c.opt.Zone, c.opt.Node)
	_, _, err = c.get(ctx, c.http, ask{method: http.MethodPost, path: path, what: "status report", limit: protocol.MaxProblemBytes, body: body})
	return err
}

// Reachable asks every controller in turn, each over a new connection, and is nil as soon as one answers: the probe
// after a change of the host's network, which an old connection might survive.
func (c *Client) Reachable(ctx context.Context) error {
	transport := c.opt.Transport.Clone()
	transport.DisableKeepAlives = true
	defer transport.CloseIdleConnections()
	client := newHTTP(transport)
	var all []error
	for _, base := range c.bases {
		a := ask{base: base, path: protocol.TimestampPath(c.opt.Network, c.opt.Zone), what: "timestamp", limit: peermap.MaxTimestampBytes}
		_, _, err := c.get(ctx, client, a)
		// A controller that answers with an error of its own was reached; a proxy's error page was not a controller.
		var problem *protocol.Problem
		if err == nil || errors.As(err, &problem) && problem.Code != protocol.CodeHTTP {
			return nil
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// ask is one request.
type ask struct {
	method string // default GET
	base   *url.URL
	path   string
	query  url.Values
	what   string // for errors
	limit  int    // of the body, as it travels
	accept string
	etag   string
	body   []byte
	// identity proves the request; nil: the node's own.
	identity *signer.PrivateKey
}

// get does one exchange with its deadline and cap. A transport failure or a 5xx moves on to the next controller, for the
// next call.
func (c *Client) get(ctx context.Context, client *http.Client, a ask) ([]byte, *http.Response, error) {
	base := a.base
	if base == nil {
		base = c.base()
	}
	wrap := func(err error) error { return fmt.Errorf("%s from %s: %w", a.what, base, err) }
	ctx, watch := newPace(ctx, c.opt.Grace, c.opt.MinRate)
	defer watch.stop()
	req, err := c.request(ctx, base, a)
	if err != nil {
		return nil, nil, wrap(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		c.failed(a)
		return nil, nil, wrap(watch.explain(ErrUnreachable, err))
	}
	defer resp.Body.Close()
	c.heard.Store(c.opt.Now().UnixNano())
	if err := c.judge(resp, a); err != nil {
		return nil, nil, wrap(err)
	}
	if resp.StatusCode == http.StatusNotModified {
		return nil, resp, nil
	}
	body, err := readBody(resp, watch, a.limit)
	if err != nil {
		c.failed(a)
		return nil, nil, wrap(err)
	}
	return body, resp, nil
}

// failed turns to the next controller unless the caller chose one by hand.
func (c *Client) failed(a ask) {
	if a.base == nil {
		c.Rotate()
	}
}

func (c *Client) request(ctx context.Context, base *url.URL, a ask) (*http.Request, error) {
	method := a.method
	if method == "" {
		method = http.MethodGet
	}
	target := base.JoinPath(a.path)
	target.RawQuery = a.query.Encode()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: c.connected})
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bodyReader(a.body))
	if err != nil {
		return nil, err
	}
	proof, err := protocol.NewProof(c.opt.Node, method, target, a.body, c.opt.Now())
	if err != nil {
		return nil, err
	}
	identity := a.identity
	if identity == nil {
		own := c.opt.Identity()
		identity = &own
	}
	token, err := proof.Sign(identity.Sign)
	if err != nil {
		return nil, err
	}
	req.Header.Set(protocol.ProofHeader, token)
	req.Header.Set("User-Agent", c.opt.UserAgent)
	if a.body != nil {
		req.Header.Set("Content-Type", protocol.TypeJSON)
	}
	if a.accept != "" {
		req.Header.Set("Accept-Encoding", a.accept)
	}
	if a.etag != "" {
		req.Header.Set("If-None-Match", a.etag)
	}
	return req, nil
}

// connected remembers where a connection went.
func (c *Client) connected(info httptrace.GotConnInfo) {
	if tcp, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok {
		remote := tcp.AddrPort()
		remote = netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())
		c.remote.Store(&remote)
	}
}

// judge turns a status that is not a success into an error.
func (c *Client) judge(resp *http.Response, a ask) error {
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300, resp.StatusCode == http.StatusNotModified && a.etag != "":
		return nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		c.failed(a)
		return fmt.Errorf("%w: it answered %s; redirects are not followed", ErrUnreachable, resp.Status)
	}
	err := protocol.ReadProblem(resp)
	var problem *protocol.Problem
	replayed := errors.As(err, &problem) && problem.Code == protocol.CodeReplay
	switch {
	case replayed && a.identity == nil, resp.StatusCode == http.StatusTooManyRequests:
		// A connection that broke made the transport send one proof twice, or an older watch of ours still stands: the next
		// attempt is another. (Of an enrolment it is the token that was used before.)
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case resp.StatusCode >= 500:
		c.failed(a)
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// readBody reads at most limit bytes, at no less than the least pace.
func readBody(resp *http.Response, watch *pace, limit int) ([]byte, error) {
	if resp.ContentLength > int64(limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, limit %d", ErrTooLarge, resp.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(watch.reader(resp.Body), int64(limit)+1))
	if err == nil {
		// Ending an exchange says goodbye to the server first, which may still end the body in good order: it is cut short
		// without an error of its own.
		err = context.Cause(watch.ctx)
	}
	if err != nil {
		return nil, watch.explain(ErrUnreachable, err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return body, nil
}

// short is enough of a digest for a person.
func short(d peermap.Digest) string { return d.String()[:12] }
