package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// joinRequest is what one host hands to another so that a person can sign in there. It holds nothing secret.
type joinRequest struct {
	Network     string                `json:"network"`
	Zone        string                `json:"zone"`
	Node        string                `json:"node"`
	PublicKey   peermap.Key           `json:"publicKey"`
	IdentityKey peermap.Key           `json:"identityKey"`
	Commitment  string                `json:"commitment"`
	Issuers     []protocol.IssuerInfo `json:"issuers"`
}

// requestOf takes what signing in needs from the agent's answer.
func requestOf(e control.Enrolment) (joinRequest, error) {
	if e.Info == nil {
		return joinRequest{}, fmt.Errorf("the controller cannot say how to join zone %s: %s", e.Zone, e.InfoError)
	}
	return joinRequest{Network: e.Network, Zone: e.Zone, Node: e.Node, PublicKey: e.PublicKey, IdentityKey: e.IdentityKey,
		Commitment: e.Commitment, Issuers: e.Info.Issuers}, nil
}

// readRequest reads a request that apex join --request printed and checks that its commitment is that of its keys.
func readRequest(s cli.Streams, name string) (joinRequest, error) {
	var r joinRequest
	data, err := readInput(name, s.In)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, cli.WithCode(cli.Invalid, fmt.Errorf("%s is not what apex join --request prints: %w", name, err))
	}
	if r.Network == "" || r.Node == "" || r.Commitment != protocol.Commitment(r.Network, r.PublicKey, r.IdentityKey) {
		return r, cli.WithCode(cli.Invalid, fmt.Errorf("%s is not whole: its commitment is not that of its network and keys; print it again", name))
	}
	return r, nil
}

func newLogin(s cli.Streams) *cobra.Command {
	var f signInFlags
	var zone, socket, request, out string
	c := &cobra.Command{
		Use:   "login",
		Short: "Sign in for a host, and keep the result in a file",
		Long: `Login signs you in at the network's OpenID provider so that the token is good for one host's keys only: this host's, as its
agent names them, or those of another host in the request that "apex join --request" printed there. The result goes to
the file of --out with mode 0600, for "apex join --login". On the host itself "apex join" does both at once.

The file lets that host join as you. Give it to nobody, and remove it afterwards. Sign in only for a request that you, or
somebody you trust, made: the host in it becomes yours.`,
		Example: "  ssh pi apex join --zone home --request > pi.json\n" +
			"  apex login --request pi.json --out pi.login\n" +
			"  ssh pi apex join --zone home --login - < pi.login && rm pi.login",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runLogin(c.Context(), s, control.NewClient(socket), f, zone, request, out)
		},
	}
	f.register(c)
	c.Flags().StringVar(&zone, "zone", "", "zone of this host; needed only if it has several")
	c.Flags().StringVar(&socket, "socket", status.DefaultSocket, "the agent's socket")
	c.Flags().StringVar(&request, "request", "", "request of another host; - reads standard input")
	c.Flags().StringVar(&out, "out", "", "new file for the result, mode 0600; - prints it")
	return c
}

func runLogin(ctx context.Context, s cli.Streams, agent *control.Client, f signInFlags, zone, request, out string) error {
	if out == "" {
		return cli.WithCode(cli.Invalid, errors.New("say where the result goes: --out FILE (apex join signs in and joins at once)"))
	}
	if _, err := os.Lstat(out); out != "-" && !errors.Is(err, fs.ErrNotExist) {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s is there already; choose another file", out))
	}
	r, err := loginRequest(ctx, s, agent, zone, request, f.timeout)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "Signing in for node %q of zone %q in network %q (commitment %s).\n", r.Node, r.Zone, r.Network, r.Commitment)
	session, err := f.signIn(ctx, s, r.Issuers, r.Commitment)
	if err != nil {
		return err
	}
	text, err := json.Marshal(session)
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	text = append(text, '\n')
	if out == "-" {
		_, err = s.Out.Write(text)
		return err
	}
	if err := keyfile.Create(out, text); err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "Wrote %s. On the host: apex join --zone %s --login FILE; then remove it.\n", out, r.Zone)
	return nil
}

// loginRequest is what to sign in for: a file's, or this host's.
func loginRequest(ctx context.Context, s cli.Streams, agent *control.Client, zone, request string, timeout time.Duration) (joinRequest, error) {
	if request != "" {
		return readRequest(s, request)
	}
	e, err := readyEnrolment(ctx, s, agent, zone, timeout, func(control.Enrolment) bool { return false })
	if err != nil {
		return joinRequest{}, err
	}
	return requestOf(e)
}

// readSession reads what apex login wrote.
func readSession(s cli.Streams, name string) (*login.Session, error) {
	data, err := readInput(name, s.In)
	if err != nil {
		return nil, err
	}
	var session login.Session
	// The decoder's error could quote a token.
	if json.Unmarshal(data, &session) != nil || session.IDToken == "" || session.Issuer == "" {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("%s is not what apex login writes", name))
	}
	return &session, nil
}

// agentError gives a refusal at the agent's socket its exit code; most are the controller's own.
func agentError(err error) error { return coded(err) }
