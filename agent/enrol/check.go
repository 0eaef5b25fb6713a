package enrol

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// ErrBinding says that a controller answered with a binding that is not what was asked for. It is refused.
var ErrBinding = errors.New("the controller's binding is refused")

// Want is what a binding must be for.
type Want struct {
	Network, Zone, Node    string
	PublicKey, IdentityKey peermap.Key
}

// Check verifies that an enrolment key of the trust root signed the envelope and that the binding in it is for exactly
// this node and these keys, and in force at now. Everything else in it, addresses and labels, counts only once a signed
// generation says the same.
func Check(root *signer.Root, envelope []byte, want Want, now time.Time) (*binding.Binding, error) {
	env, err := signer.ParseEnvelope(envelope, protocol.MaxBindingBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinding, err)
	}
	if err := root.CheckBinding(env); err != nil {
		return nil, fmt.Errorf("%w: no enrolment key of the trust root signed it: %w", ErrBinding, err)
	}
	b, err := parse(envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinding, err)
	}
	if got := (Want{b.Network, b.Zone, b.Node, b.PublicKey, b.IdentityKey}); got != want {
		return nil, fmt.Errorf("%w: it is for %s", ErrBinding, difference(got, want))
	}
	if b.Expires <= now.Unix() || b.Expires <= b.Issued {
		return nil, fmt.Errorf("%w: it ran out at %s, and this host's clock says %s", ErrBinding,
			time.Unix(b.Expires, 0).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return b, nil
}

func difference(got, want Want) string {
	switch {
	case got.Network != want.Network || got.Zone != want.Zone:
		return fmt.Sprintf("zone %s of network %s", cut(got.Zone), cut(got.Network))
	case got.Node != want.Node:
		return "node " + cut(got.Node)
	case got.PublicKey != want.PublicKey:
		return "another WireGuard key"
	}
	return "another identity key"
}

// parse reads the payload of an envelope, in its one encoding; no signature is looked at.
func parse(envelope []byte) (*binding.Binding, error) {
	env, err := signer.ParseEnvelope(envelope, protocol.MaxBindingBytes)
	if err != nil {
		return nil, err
	}
	if env.PayloadType != binding.Type {
		return nil, fmt.Errorf("its type is %q, want %q", cut(env.PayloadType), binding.Type)
	}
	b, err := binding.Parse(env.Payload)
	if err != nil {
		return nil, err
	}
	return &b, nil
}

// cut makes foreign words short and printable.
func cut(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 80)]
}
