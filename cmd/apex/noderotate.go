package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
)

func newNodeRotate(s cli.Streams) *cobra.Command {
	var zone, socket, file string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "rotate [DIR]",
		Short: "Give this host new keys, or write a host's new keys into a clone",
		Long: `On a host, rotate has the agent make new WireGuard and identity keys and waits until they are in force. A host that joined by
identity needs nothing else. For a node whose keys stand in git it prints the Node document with the new keys and ends:
the agent keeps both pairs and moves when the commit arrives, so no connection is lost.

With -f it is the other half: it puts the keys of that document (- for standard input) in the place of the old ones in the
Node document of the clone in DIR (default: this folder). Nothing else in the file changes.`,
		Example: "  sudo apex node rotate\n  ssh db-1 sudo apex node rotate | apex node rotate -f - && git commit -S -a -m 'New keys for db-1'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if file != "" {
				return rotateInClone(s, folderArg(args, 0), file, time.Now())
			}
			if len(args) > 0 {
				return cli.WithCode(cli.Invalid, errors.New("DIR goes with -f, which names the document with the new keys"))
			}
			return rotateHere(c.Context(), s, control.NewClient(socket), zone, timeout)
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "a zone that uses the keys; needed only if this host has several")
	c.Flags().StringVar(&socket, "socket", status.DefaultSocket, "the agent's socket")
	c.Flags().StringVarP(&file, "file", "f", "", "Node document with the new keys; - reads standard input")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait until the new keys are in force")
	return c
}

// rotateHere asks the agent for new keys and follows it: until they are in force, or until a commit is needed.
func rotateHere(ctx context.Context, s cli.Streams, agent *control.Client, zone string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(joinPoll)
	defer tick.Stop()
	r, err := whenReady(ctx, s, timeout, func(ctx context.Context) (control.Rotation, error) { return agent.Rotate(ctx, zone) }, notReady)
	for said := ""; ; r, err = agent.Rotation(ctx, zone) {
		switch {
		case ctx.Err() != nil:
			return timedOut(ctx, fmt.Errorf("the new keys are not in force yet: %w; the agent goes on by itself", ctx.Err()))
		case err != nil:
			return agentError(err)
		case r.Done:
			fmt.Fprintf(s.Err, "new keys are in force in %s: %s, %s\n", strings.Join(r.Zones, ", "), r.PublicKey, r.IdentityKey)
			return nil
		case len(r.Static) > 0:
			return printRotation(ctx, s, agent, r)
		}
		if r.Message != said {
			said = r.Message
			fmt.Fprintln(s.Err, said)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// printRotation prints a Node document with the new keys for every zone in which a commit has to bring them.
func printRotation(ctx context.Context, s cli.Streams, agent *control.Client, r control.Rotation) error {
	for i, zone := range r.Static {
		e, err := agent.Enrolment(ctx, zone)
		if err != nil {
			return agentError(err)
		}
		if i > 0 {
			fmt.Fprintln(s.Out, "---")
		}
		fmt.Fprintf(s.Out, draft, spec.APIVersion, spec.KindNode, e.Node, zone, spec.Key(r.PublicKey), spec.Key(r.IdentityKey))
	}
	fmt.Fprintf(s.Err, "The keys of this node stand in git (%s): apex node rotate -f writes these into a clone.\n", strings.Join(r.Static, ", "))
	return nil
}

// rotateInClone puts new keys into the Node documents of a clone.
func rotateInClone(s cli.Streams, dir, name string, now time.Time) error {
	data, err := readInput(name, s.In)
	if err != nil {
		return err
	}
	for _, part := range strings.Split("\n"+string(data), "\n---") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		next, err := readDraft(name, []byte(strings.TrimPrefix(part, "\n")))
		if err != nil {
			return cli.WithCode(cli.Invalid, err)
		}
		// Each document is written before the next is read, since two may stand in one file.
		w, err := validWorkspace(s, dir, now)
		if err != nil {
			return err
		}
		if err := w.replaceKeys(s, next, now); err != nil {
			return err
		}
	}
	return nil
}

// replaceKeys gives the node of the clone the keys of next.
func (w *workspace) replaceKeys(s cli.Streams, next spec.Node, now time.Time) error {
	zone, name := next.Metadata.Zone, next.Metadata.Name
	node := w.node(zone, name)
	if node == nil {
		return cli.WithCode(cli.Invalid, fmt.Errorf("node %s of zone %s is not in %s; apex node add writes it", name, zone, w.dir))
	}
	file, err := w.fileOf(node.Pos)
	if err != nil {
		return err
	}
	old := node.Value.Spec
	text, err := replaceScalar(file.Data, node.At("spec.publicKey"), old.PublicKey.String(), next.Spec.PublicKey.String())
	if err == nil {
		text, err = replaceScalar(text, node.At("spec.identityKey"), old.IdentityKey.String(), next.Spec.IdentityKey.String())
	}
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	wanted := node.Value
	wanted.Spec.PublicKey, wanted.Spec.IdentityKey = next.Spec.PublicKey, next.Spec.IdentityKey
	err = w.rewrite(s, spec.File{Path: file.Path, Data: text}, wanted, func(after *workspace) (any, error) {
		n := after.node(zone, name)
		if n == nil {
			return nil, errEdit
		}
		return n.Value, nil
	}, now)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Out, file.Path)
	fmt.Fprintf(s.Err, "%s of zone %s has new keys; review it with apex plan, then git commit -S\n", name, zone)
	return nil
}
