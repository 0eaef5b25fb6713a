package enrol

import (
	"context"
	"errors"

	"github.com/apex-network/apex/controller/store"
)

// Lead catches up with what the leader before wrote: what is compiled next must not lack a binding that was acknowledged. It
// is called when this controller begins to lead, before anything is asked of it.
func (s *Service) Lead(ctx context.Context) error {
	return errors.Join(
		store.Settled(ctx, s.opts.Buckets.Bindings, s.opts.Network, s.take),
		store.Settled(ctx, s.opts.Buckets.Waiting, s.opts.Network, s.takeWaiting),
	)
}
