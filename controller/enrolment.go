package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/signer"
)

// openEnrolment opens the service that takes hosts in, if the network has keys for it. Every replica has one: it follows
// the store and knows who is connected. Only the leader's answers.
func (c *Controller) openEnrolment(ctx context.Context, n *network, cfg config.Network) error {
	if len(cfg.Keys.EnrolmentFiles) == 0 {
		return nil
	}
	var keys []signer.PrivateKey
	for _, f := range cfg.Keys.EnrolmentFiles {
		key, err := keyfile.LoadEd25519(f)
		if err != nil {
			return fmt.Errorf("enrolment key: %w", err)
		}
		keys = append(keys, key)
	}
	buckets, err := enrol.OpenBuckets(ctx, c.store)
	if err != nil {
		return err
	}
	limits := cfg.Enrolment
	o := enrol.Options{
		Network: cfg.Name, Buckets: buckets, Keys: keys, Verifier: n.verifier, Published: n.admitting, Resumes: n.serves,
		Limits: enrol.Limits{PerIssuer: limits.PerIssuer, PerSubject: limits.PerSubject,
			PerAddress: limits.PerAddress},
		EphemeralGrace: time.Duration(limits.EphemeralGrace),
		Now:            n.now, Logger: n.log, Metrics: c.enrolMetrics, Changed: func() { nudge(n.changed) }, Flush: c.store.Flush,
	}
	if n.replica != nil {
		o.Replica, o.Leads = c.replicas.me.ID, n.replica.lease.Leads
	}
	service, err := enrol.Open(ctx, o)
	if err != nil {
		return err
	}
	n.enrolment = service
	if n.bindings == nil {
		n.bindings, n.records = service, service.Records
	}
	n.batch.window = time.Duration(limits.Batch)
	return nil
}

// admitting is the commit by which enrolments are judged; nil until one was compiled in this process.
func (n *network) admitting() *enrol.Published {
	a := n.published.Load()
	if a == nil {
		return nil
	}
	return &enrol.Published{Commit: a.frontier.Commit, Repo: a.loaded.Repo, Root: a.root}
}

// serves says whether agents get a generation from this controller.
func (n *network) serves() bool {
	return slices.ContainsFunc(n.publisher.Zones(), func(z *publish.Zone) bool {
		current, _ := z.Snapshot()
		return current != nil
	})
}
