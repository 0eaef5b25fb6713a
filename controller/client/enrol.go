package client

import (
	"bytes"
	"context"
	"net/http"

	"github.com/apex-network/apex/internal/protocol"
)

// Enrolments reads who holds bindings and who waits for a maintainer. The key must be an applier's or a maintainer's.
func (c *Client) Enrolments(ctx context.Context) (protocol.EnrolmentList, error) {
	var list protocol.EnrolmentList
	payload, err := protocol.NewEnrolQuery(c.opt.Network, c.opt.Now())
	if err != nil {
		return list, err
	}
	request, err := c.sign(protocol.EnrolNamespace, payload)
	if err != nil {
		return list, err
	}
	req, err := c.request(ctx, http.MethodGet, protocol.EnrolmentsPath(c.opt.Network), nil)
	if err != nil {
		return list, err
	}
	if err := protocol.SetRequest(req.Header, request); err != nil {
		return list, err
	}
	return list, c.do(req, &list)
}

// Decide approves or denies a request that waits. The key must be of a maintainer who may change the zone's document;
// the signed decision is kept as evidence of the binding.
func (c *Client) Decide(ctx context.Context, w protocol.Waiting, approve bool) error {
	payload, err := protocol.NewDecision(c.opt.Network, w, approve, c.opt.Now())
	if err != nil {
		return err
	}
	request, err := c.sign(protocol.EnrolNamespace, payload)
	if err != nil {
		return err
	}
	body, err := protocol.Encode(request)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, protocol.EnrolmentsPath(c.opt.Network), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", protocol.TypeJSON)
	return c.do(req, nil)
}
