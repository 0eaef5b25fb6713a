package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// maxAnswer bounds what is read from a controller: the status of a fleet of tens of thousands.
const maxAnswer = 64 << 20

// remoteFlags say which controller is asked, and with whose key.
type remoteFlags struct {
	controller, key string
	caFile, tlsPin  string
}

func (f *remoteFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.controller, "controller", "", "base URL of the controller")
	c.Flags().StringVar(&f.key, "key", "", "SSH key named in the trust root; a .pub file means the key is in ssh-agent")
	c.Flags().StringVar(&f.caFile, "ca-file", "", "certificate authorities to trust instead of the system's, PEM")
	c.Flags().StringVar(&f.tlsPin, "tls-pin", "", "SHA-256 of the controller's public key, hex, as it prints at start with a development certificate")
}

// remote asks one controller about one network.
type remote struct {
	base    *url.URL
	network string
	http    *http.Client
	key     ssh.Signer
	now     func() time.Time
	close   func()
}

// open connects nothing yet; it checks the flags and opens the key.
func (f *remoteFlags) open(s cli.Streams, network string) (*remote, error) {
	if f.controller == "" || f.key == "" {
		return nil, cli.WithCode(cli.Invalid, errors.New("name the controller and your key: --controller https://… --key ~/.ssh/id_ed25519"))
	}
	base, err := url.Parse(f.controller)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("--controller %q: want a URL such as https://apex.example.com", f.controller))
	}
	pin, err := hex.DecodeString(f.tlsPin)
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("--tls-pin: %w", err))
	}
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: f.caFile, SPKI: pin})
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	key, done, err := openSSHKey(s, f.key)
	if err != nil {
		return nil, err
	}
	return &remote{base: base, network: network, key: key, now: time.Now, close: done,
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// apply asks the controller to take commit now.
func (r *remote) apply(ctx context.Context, commit string) (protocol.ApplyResult, error) {
	var result protocol.ApplyResult
	payload, err := protocol.NewApply(r.network, commit, r.now())
	if err != nil {
		return result, err
	}
	request, err := r.sign(protocol.ApplyNamespace, payload)
	if err != nil {
		return result, err
	}
	body, err := protocol.Encode(request)
	if err != nil {
		return result, err
	}
	req, err := r.request(ctx, http.MethodPost, protocol.ApplyPath(r.network), bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	req.Header.Set("Content-Type", "application/json")
	return result, r.do(req, &result)
}

// fleet reads the status of the network.
func (r *remote) fleet(ctx context.Context) (protocol.FleetStatus, error) {
	var status protocol.FleetStatus
	payload, err := protocol.NewStatusQuery(r.network, r.now())
	if err != nil {
		return status, err
	}
	request, err := r.sign(protocol.StatusNamespace, payload)
	if err != nil {
		return status, err
	}
	req, err := r.request(ctx, http.MethodGet, protocol.FleetPath(r.network), nil)
	if err != nil {
		return status, err
	}
	if err := protocol.SetRequest(req.Header, request); err != nil {
		return status, err
	}
	return status, r.do(req, &status)
}

func (r *remote) sign(namespace string, payload []byte) (protocol.SignedRequest, error) {
	sig, err := signer.SSHSign(r.key, namespace, payload)
	if err != nil {
		return protocol.SignedRequest{}, fmt.Errorf("sign request: %w", err)
	}
	return protocol.SignedRequest{Payload: payload, Signature: string(sig)}, nil
}

func (r *remote) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	u := strings.TrimSuffix(r.base.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", r.base, err)
	}
	req.Header.Set("User-Agent", "apex/"+version)
	return req, nil
}

// do sends req and reads the answer into out.
func (r *remote) do(req *http.Request, out any) error {
	resp, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("controller %s cannot be reached: %w", r.base, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return coded(protocol.ReadProblem(resp))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("controller %s: %w", r.base, err)
	}
	if err := protocol.Decode(data, maxAnswer, out); err != nil {
		return fmt.Errorf("controller %s: %w", r.base, err)
	}
	return nil
}

// coded gives a controller's problem the exit code it stands for.
func coded(err error) error {
	var p *protocol.Problem
	if !errors.As(err, &p) {
		return err
	}
	switch p.Code {
	case protocol.CodeSignature, protocol.CodeProof, protocol.CodeReplay:
		return cli.WithCode(cli.Trust, err)
	case protocol.CodeRefused, protocol.CodeNotAncestor, protocol.CodeBadRequest:
		return cli.WithCode(cli.Invalid, err)
	case protocol.CodeTimeout:
		return cli.WithCode(cli.TimedOut, err)
	}
	return err
}
