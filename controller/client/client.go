// Package client is how a person, or a program of theirs, speaks to a controller: it signs requests with an SSH key that
// the trust root names, or shows the ID token of a CI job, and reads the answers, within limits. It decides nothing.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// MaxAnswer bounds what is read from a controller, in bytes: the status of a fleet of tens of thousands.
const MaxAnswer = 64 << 20

// ErrNoTicket says that a client without a key asked for the status before it applied anything.
var ErrNoTicket = errors.New("the status is told only after an apply with a token: apply first, or use a key")

// ErrUnreachable says that no answer came, or not a whole one.
var ErrUnreachable = errors.New("cannot be reached")

// ErrNoKey says that a request has to be signed by a person's key, and the client has a token only.
var ErrNoKey = errors.New("this needs the SSH key of a person")

// Options say which controller is asked, about which network, and with whose key or token. All but UserAgent and Now are
// needed; of Key and Token, one.
type Options struct {
	URL     *url.URL
	Network string
	Key     ssh.Signer
	// Token gives an ID token that was never used, for one apply; Key is not used then.
	Token func(context.Context) (string, error)
	// HTTP makes the requests; it should follow no redirects.
	HTTP      *http.Client
	UserAgent string
	Now       func() time.Time
}

// Client asks one controller about one network. It is safe for concurrent use.
type Client struct {
	opt Options
	// ticket is what the newest apply with a token gave: it lets the client read the status.
	ticket atomic.Pointer[string]
}

// New connects nothing yet.
func New(opt Options) *Client {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Client{opt: opt}
}

// Apply asks the controller to take commit now. A *protocol.Problem says why it did not.
func (c *Client) Apply(ctx context.Context, commit string) (protocol.ApplyResult, error) {
	var result protocol.ApplyResult
	body, err := c.applyBody(ctx, commit)
	if err != nil {
		return result, err
	}
	req, err := c.request(ctx, http.MethodPost, protocol.ApplyPath(c.opt.Network), bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := c.do(req, &result); err != nil {
		return result, err
	}
	if result.Ticket != "" {
		c.ticket.Store(&result.Ticket)
	}
	return result, nil
}

// applyBody names the commit, with a signature or a token.
func (c *Client) applyBody(ctx context.Context, commit string) ([]byte, error) {
	payload, err := protocol.NewApply(c.opt.Network, commit, c.opt.Now())
	if err != nil {
		return nil, err
	}
	if c.opt.Token == nil {
		request, err := c.sign(protocol.ApplyNamespace, payload)
		if err != nil {
			return nil, err
		}
		return protocol.Encode(request)
	}
	token, err := c.opt.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("get an ID token: %w", err)
	}
	return protocol.Encode(protocol.TokenRequest{Payload: payload, Token: token})
}

// Fleet reads the status of the network. A client with tokens can do so once it has applied: errors: ErrNoTicket.
func (c *Client) Fleet(ctx context.Context) (protocol.FleetStatus, error) {
	var status protocol.FleetStatus
	req, err := c.request(ctx, http.MethodGet, protocol.FleetPath(c.opt.Network), nil)
	if err != nil {
		return status, err
	}
	if err := c.authorise(req); err != nil {
		return status, err
	}
	return status, c.do(req, &status)
}

// authorise shows the ticket, or signs a query.
func (c *Client) authorise(req *http.Request) error {
	if c.opt.Token != nil {
		ticket := c.ticket.Load()
		if ticket == nil {
			return ErrNoTicket
		}
		protocol.SetBearer(req.Header, *ticket)
		return nil
	}
	payload, err := protocol.NewStatusQuery(c.opt.Network, c.opt.Now())
	if err != nil {
		return err
	}
	request, err := c.sign(protocol.StatusNamespace, payload)
	if err != nil {
		return err
	}
	return protocol.SetRequest(req.Header, request)
}

func (c *Client) sign(namespace string, payload []byte) (protocol.SignedRequest, error) {
	if c.opt.Key == nil {
		return protocol.SignedRequest{}, ErrNoKey
	}
	sig, err := signer.SSHSign(c.opt.Key, namespace, payload)
	if err != nil {
		return protocol.SignedRequest{}, fmt.Errorf("sign request: %w", err)
	}
	return protocol.SignedRequest{Payload: payload, Signature: string(sig)}, nil
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	u := strings.TrimSuffix(c.opt.URL.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", c.opt.URL, err)
	}
	req.Header.Set("User-Agent", c.opt.UserAgent)
	return req, nil
}

// do sends req and reads the answer into out; nil means that none is expected.
func (c *Client) do(req *http.Request, out any) error {
	resp, err := c.opt.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("controller %s %w: %w", c.opt.URL, ErrUnreachable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent && out == nil {
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		return protocol.ReadProblem(resp)
	}
	if out == nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return fmt.Errorf("controller %s %w: %w", c.opt.URL, ErrUnreachable, err)
	}
	if err := protocol.Decode(data, MaxAnswer, out); err != nil {
		return fmt.Errorf("controller %s: %w", c.opt.URL, err)
	}
	return nil
}
