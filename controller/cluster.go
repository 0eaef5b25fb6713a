package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store/jetstream"
)

// replicas is this process's part in a cluster of controllers over one store.
type replicas struct {
	me        cluster.Replica
	bus       cluster.Bus
	times     cluster.Times
	forwarder *cluster.Forwarder
}

// openCluster joins the other controllers of the store; it does nothing if there can be none: a store inside the process
// has no other users.
func (c *Controller) openCluster() error {
	bus := c.opts.Bus
	if n, ok := c.store.(*jetstream.Store); ok && bus == nil && c.cfg.NATS.URL != "" {
		bus = cluster.NewBus(n.Conn())
	}
	if bus == nil {
		return nil
	}
	name := c.cfg.NATS.Replica
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("name of this replica: %w: set nats.replica", err)
		}
	}
	me, err := cluster.NewReplica(name)
	if err != nil {
		return err
	}
	c.replicas = &replicas{me: me, bus: bus, times: c.opts.LeaseTimes, forwarder: cluster.NewForwarder(me, bus, c.leader, c.log)}
	return nil
}

// joinCluster gives a network its part in the cluster; nil if there is none.
func (c *Controller) joinCluster(ctx context.Context, network string, log *slog.Logger) (*replica, *publish.Share, error) {
	if c.replicas == nil {
		return nil, nil, nil
	}
	leases, err1 := c.store.Bucket(ctx, cluster.LeaseBucket())
	frontiers, err2 := c.store.Bucket(ctx, FrontierBucket())
	blobs, err3 := c.store.Blobs(ctx, publish.BlobFolder())
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, nil, err
	}
	lease := cluster.NewLease(network, c.replicas.me, leases, log, c.replicas.times)
	r := &replica{lease: lease, frontiers: frontiers, poke: c.replicas.forwarder.Poke}
	return r, &publish.Share{Blobs: blobs, Confirm: lease.Confirm}, nil
}

// shareStatus lets the status of a network be one over all replicas, until ctx ends.
func (c *Controller) shareStatus(ctx context.Context, network string) error {
	if c.replicas == nil {
		return nil
	}
	watchers, err := c.store.Bucket(ctx, serve.WatchersBucket())
	if err != nil {
		return err
	}
	go c.server.Share(ctx, network, c.replicas.me.ID, watchers)
	return nil
}

// leader says which replica leads a network, and whether that is this one.
func (c *Controller) leader(network string) (cluster.Replica, bool) {
	c.mu.RLock()
	n, ok := c.networks[network]
	c.mu.RUnlock()
	if !ok {
		return cluster.Replica{}, true // it is answered here that there is no such network
	}
	who, _ := n.replica.lease.Leader()
	return who, n.leads()
}

// handler answers the public address.
func (c *Controller) handler() http.Handler {
	if c.replicas == nil {
		return c.server.Handler()
	}
	return c.replicas.forwarder.Handler(c.server.Handler())
}

// listenCluster answers what other replicas pass on, until the returned function is called.
func (c *Controller) listenCluster() (stop func(), err error) {
	if c.replicas == nil {
		return func() {}, nil
	}
	return c.replicas.forwarder.Listen(c.server.Handler(), func(network string) {
		c.mu.RLock()
		n, ok := c.networks[network]
		c.mu.RUnlock()
		if ok && n.leads() {
			n.Poke()
		}
	})
}

// storeNotice says what is wrong with the store, for who asks whether the controller is ready: it serves what it has all
// the same.
func (c *Controller) storeNotice() string {
	if c.store == nil {
		return ""
	}
	if err := c.store.Ready(); err != nil {
		return err.Error()
	}
	return ""
}
