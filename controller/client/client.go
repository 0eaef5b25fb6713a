// Package client is how a person, or a program of theirs, speaks to a controller: it signs requests with an SSH key
// that the trust root names and reads the answers, within limits. It decides nothing.
package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// MaxAnswer bounds what is read from a controller, in bytes: the status of a fleet of tens of thousands.
const MaxAnswer = 64 << 20

// Options say which controller is asked, about which network, and with whose key. All but UserAgent and Now are needed.
type Options struct {
	URL     *url.URL
	Network string
	Key     ssh.Signer
	// HTTP makes the requests; it should follow no redirects.
	HTTP      *http.Client
	UserAgent string
	Now       func() time.Time
}

// Client asks one controller about one network.
type Client struct{ opt Options }

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
	payload, err := protocol.NewApply(c.opt.Network, commit, c.opt.Now())
	if err != nil {
		return result, err
	}
	request, err := c.sign(protocol.ApplyNamespace, payload)
	if err != nil {
		return result, err
	}
	body, err := protocol.Encode(request)
	if err != nil {
		return result, err
	}
	req, err := c.request(ctx, http.MethodPost, protocol.ApplyPath(c.opt.Network), bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	req.Header.Set("Content-Type", "application/json")
	return result, c.do(req, &result)
}

// Fleet reads the status of the network.
func (c *Client) Fleet(ctx context.Context) (protocol.FleetStatus, error) {
	var status protocol.FleetStatus
	payload, err := protocol.NewStatusQuery(c.opt.Network, c.opt.Now())
	if err != nil {
		return status, err
	}
	request, err := c.sign(protocol.StatusNamespace, payload)
	if err != nil {
		return status, err
	}
	req, err := c.request(ctx, http.MethodGet, protocol.FleetPath(c.opt.Network), nil)
	if err != nil {
		return status, err
	}
	if err := protocol.SetRequest(req.Header, request); err != nil {
		return status, err
	}
	return status, c.do(req, &status)
}

func (c *Client) sign(namespace string, payload []byte) (protocol.SignedRequest, error) {
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
		return fmt.Errorf("controller %s cannot be reached: %w", c.opt.URL, err)
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
		return fmt.Errorf("controller %s: %w", c.opt.URL, err)
	}
	if err := protocol.Decode(data, MaxAnswer, out); err != nil {
		return fmt.Errorf("controller %s: %w", c.opt.URL, err)
	}
	return nil
}
