//go:build linux

package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/protocol"
)

// TestThreshold has a manifest threshold of 2. Without a witness nothing is published, and the status says what is
// missing; with `apex witness` it is.
func TestThreshold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{Witness: true}, office("tcp/443"))
	_, laptop := w.pair()
	before := w.snapshots()
	first := w.merge("Add the nodes")
	w.start()
	w.waits(first, false)
	w.untouched(before)
	for _, n := range w.Nodes {
		if z := must(n.Zone(w.ctx, "office"))(t); z.Applied != nil || z.Verified != nil {
			t.Errorf("%s got something: %+v", n.Spec.Name, z)
		}
	}

	witness := w.witness()
	w.enforced(first)
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)

	t.Run("the witness is away", func(t *testing.T) {
		w := w.in(t)
		w.must(witness.Stop(w.ctx))
		before := w.snapshots()
		w.write("policies/office.yaml", officePolicy("tcp/80"))
		second := w.merge("Swap the port")
		w.waits(second, true)
		w.untouched(before)
		w.still(laptop.Host, "10.10.0.1", tcp(443), true)
		p, err := witness.Restart(w.ctx)
		w.must(err)
		witness = p
		w.enforced(second)
		w.reaches(laptop.Host, "10.10.0.1", tcp(80), true)
	})
	t.Run("the controller is restarted while a generation waits", func(t *testing.T) {
		w := w.in(t)
		w.must(witness.Stop(w.ctx))
		w.write("policies/office.yaml", officePolicy("tcp/443"))
		third := w.merge("Swap it back")
		w.waits(third, true)
		w.must(w.Controller.Process.Kill(w.ctx))
		w.must(w.Controller.Start(w.ctx))
		w.waits(third, true)
		w.still(laptop.Host, "10.10.0.1", tcp(80), true)
		p, err := witness.Restart(w.ctx)
		w.must(err)
		witness = p
		w.enforced(third)
		w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	})
}

// waits waits until a commit is pending for a witness, and older says whether something older is served meanwhile.
func (w *world) waits(commit string, older bool) {
	w.t.Helper()
	s, err := w.AwaitStatus(w.ctx, "a pending generation", func(s protocol.FleetStatus) error {
		for _, z := range s.Zones {
			if z.Pending != nil && z.Pending.Commit == commit {
				return nil
			}
		}
		return fmt.Errorf("%+v", s)
	})
	w.must(err)
	z := s.Zones[0]
	w.t.Logf("pending: %d of %d: %s", z.Pending.Have, z.Pending.Threshold, z.Pending.Missing)
	if z.Pending.Have != 1 || z.Pending.Threshold != 2 || !strings.Contains(z.Pending.Missing, "witness") {
		w.t.Errorf("the status does not say what is missing: %+v", z.Pending)
	}
	if (z.Current != nil) != older || older && z.Current.Commit == commit {
		w.t.Errorf("served meanwhile: %+v", z.Current)
	}
}

// witness starts `apex witness` on a host of its own.
func (w *world) witness() *lab.Process {
	w.t.Helper()
	host, err := w.Lab.Host("witness")
	w.must(err)
	_, err = host.Join(w.ctx, w.Internet)
	w.must(err)
	argv := []string{program(w.t, "apex"), "witness", "--controller", w.Controller.URL(), "--ca-file", w.Controller.CAFile,
		"--network", w.Network, "--root-digest", w.Pin.String(), "--key", w.WitnessKeyFile, "--state-dir", host.Dir(), "--repository", w.Remote}
	if _, err := os.Stat(w.IssuerCAFile()); err == nil {
		argv = append(argv, "--issuer-ca-file", w.IssuerCAFile())
	}
	p, err := host.Start(w.ctx, lab.Command{Name: "witness", Argv: argv})
	w.must(err)
	return p
}
