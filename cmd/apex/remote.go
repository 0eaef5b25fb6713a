package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

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

// networkFlags say which network is meant: by name, or by a clone of it.
type networkFlags struct{ network, dir string }

func (f *networkFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.network, "network", "", "the network's name (default: that of the clone)")
	c.Flags().StringVarP(&f.dir, "dir", "C", ".", "the clone that names the network")
}

// name is the network's name.
func (f *networkFlags) name() (string, error) {
	if f.network != "" {
		return f.network, nil
	}
	files, err := readFolder(f.dir)
	if err != nil {
		return "", err
	}
	name, err := networkName(files)
	if err != nil {
		return "", fmt.Errorf("%w (or give --network)", err)
	}
	return name, nil
}

// open connects nothing yet; it checks the flags and opens the key. The function it returns closes the key again.
func (f *remoteFlags) open(s cli.Streams, network string) (*client.Client, func(), error) {
	if f.controller == "" || f.key == "" {
		return nil, nil, cli.WithCode(cli.Invalid, errors.New("name the controller and your key: --controller https://… --key ~/.ssh/id_ed25519"))
	}
	opt, err := f.options(network)
	if err != nil {
		return nil, nil, err
	}
	key, done, err := openSSHKey(s, f.key)
	if err != nil {
		return nil, nil, err
	}
	opt.Key = key
	return client.New(opt), done, nil
}

// openWithToken is open for who shows ID tokens instead of a key.
func (f *remoteFlags) openWithToken(network string, token func(context.Context) (string, error)) (*client.Client, error) {
	if f.controller == "" || f.key != "" {
		return nil, cli.WithCode(cli.Invalid, errors.New("an ID token wants --controller, and no --key"))
	}
	opt, err := f.options(network)
	if err != nil {
		return nil, err
	}
	opt.Token = token
	return client.New(opt), nil
}

// options are those of a client without its key.
func (f *remoteFlags) options(network string) (client.Options, error) {
	base, err := url.Parse(f.controller)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return client.Options{}, cli.WithCode(cli.Invalid, fmt.Errorf("--controller %q: want a URL such as https://apex.example.com", f.controller))
	}
	pin, err := hex.DecodeString(f.tlsPin)
	if err != nil {
		return client.Options{}, cli.WithCode(cli.Invalid, fmt.Errorf("--tls-pin: %w", err))
	}
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: f.caFile, SPKI: pin})
	if err != nil {
		return client.Options{}, cli.WithCode(cli.Invalid, err)
	}
	return client.Options{URL: base, Network: network, UserAgent: "apex/" + version,
		HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// coded gives a controller's problem the exit code it stands for.
func coded(err error) error {
	var p *protocol.Problem
	if !errors.As(err, &p) {
		return err
	}
	switch p.Code {
	case protocol.CodeSignature, protocol.CodeProof, protocol.CodeReplay, protocol.CodeToken, protocol.CodeEnrolRefused:
		return cli.WithCode(cli.Trust, err)
	case protocol.CodeRefused, protocol.CodeNotAncestor, protocol.CodeBadRequest:
		return cli.WithCode(cli.Invalid, err)
	case protocol.CodeTimeout:
		return cli.WithCode(cli.TimedOut, err)
	}
	return err
}
