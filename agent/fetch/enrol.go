package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// EnrolmentInfo asks how to join the network. Unlike everything else the answer is not signed: what is in it is where a
// person signs in, and the controller refuses what does not fit.
func (c *Client) EnrolmentInfo(ctx context.Context) (protocol.EnrolmentInfo, error) {
	var out protocol.EnrolmentInfo
	err := c.inTurn(ctx, func(base *url.URL) error {
		a := ask{base: base, path: protocol.EnrolmentPath(c.opt.Network), what: "enrolment information", limit: protocol.MaxEnrolInfoBytes}
		out = protocol.EnrolmentInfo{}
		return c.message(ctx, a, &out)
	})
	return out, err
}

// Enrol asks for a binding. identity is the key in the request; its proof travels along.
func (c *Client) Enrol(ctx context.Context, identity signer.PrivateKey, req protocol.EnrolRequest) (protocol.EnrolResult, error) {
	body, err := protocol.Encode(req)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	if len(body) > protocol.MaxEnrolBytes {
		return protocol.EnrolResult{}, fmt.Errorf("enrolment: %w: the request has %d bytes", ErrTooLarge, len(body))
	}
	return c.binding(ctx, ask{path: protocol.EnrolPath(c.opt.Network, c.opt.Zone), what: "enrolment", body: body, identity: &identity}, nil)
}

// RotateKeys asks for a binding of new keys. The request is proven with the old identity key, and inside with the next one:
// that proof is made here, because it names the URL, and given to complete, which makes the request around it.
func (c *Client) RotateKeys(ctx context.Context, old, next signer.PrivateKey,
	complete func(proof string) (protocol.RotateRequest, error)) (protocol.EnrolResult, error) {
	a := ask{path: protocol.RotatePath(c.opt.Network, c.opt.Zone, c.opt.Node), what: "key rotation", identity: &old}
	return c.binding(ctx, a, func(base *url.URL) ([]byte, error) {
		proof, err := protocol.NewProof(c.opt.Node, http.MethodPost, base.JoinPath(a.path), nil, c.opt.Now())
		if err != nil {
			return nil, err
		}
		signed, err := proof.Sign(next.Sign)
		if err != nil {
			return nil, err
		}
		req, err := complete(signed)
		if err != nil {
			return nil, err
		}
		return protocol.Encode(req)
	})
}

// Leave ends the node's binding.
func (c *Client) Leave(ctx context.Context, identity signer.PrivateKey) error {
	return c.inTurn(ctx, func(base *url.URL) error {
		_, _, err := c.get(ctx, c.http, ask{
			method: http.MethodPost, base: base, path: protocol.LeavePath(c.opt.Network, c.opt.Zone, c.opt.Node), what: "leaving",
			limit: protocol.MaxProblemBytes, identity: &identity,
		})
		return err
	})
}

// binding posts a and reads an EnrolResult. body, if not nil, makes the body for a controller.
func (c *Client) binding(ctx context.Context, a ask, body func(*url.URL) ([]byte, error)) (protocol.EnrolResult, error) {
	var out protocol.EnrolResult
	a.method, a.limit = http.MethodPost, 2*protocol.MaxBindingBytes // base64
	err := c.inTurn(ctx, func(base *url.URL) error {
		a.base = base
		if body != nil {
			var err error
			if a.body, err = body(base); err != nil {
				return err
			}
		}
		out = protocol.EnrolResult{}
		return c.message(ctx, a, &out)
	})
	return out, err
}

// message does one exchange and decodes the answer.
func (c *Client) message(ctx context.Context, a ask, out any) error {
	body, _, err := c.get(ctx, c.http, a)
	if err != nil {
		return err
	}
	if err := protocol.Decode(body, a.limit, out); err != nil {
		return fmt.Errorf("%s from %s: %w", a.what, a.base, err)
	}
	return nil
}

// inTurn asks every controller, the active one first, until one gives an answer of its own: a refusal is an answer, and so
// is a request to come back later.
func (c *Client) inTurn(ctx context.Context, ask func(base *url.URL) error) error {
	var all []error
	first := c.active.Load()
	for i := range c.bases {
		err := ask(c.bases[(first+int64(i))%int64(len(c.bases))])
		var problem *protocol.Problem
		if err == nil || errors.As(err, &problem) && problem.Status < http.StatusInternalServerError || ctx.Err() != nil {
			return err
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}
