package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

func newEnrolApprove(s cli.Streams) *cobra.Command {
	var f enrolFlags
	var pr bool
	c := &cobra.Command{
		Use:   "approve ID|NODE",
		Short: "Let a node in that waits for a review",
		Long: `Approve signs with your SSH key that the node with these keys may join as it waits: for this identity, by this rule, with these
routes, as a relay or not. It sends that to the controller. The key has to be of a maintainer who may change the zone's
document. The statement is kept as evidence beside the binding.

--pr asks for nothing on the controller: it writes the approval into the Zone document of the clone (-C) and prints the
git commands that make it a pull request.`,
		Example: "  apex enrol approve laptop --controller https://apex.example.com --key ~/.ssh/id_ed25519\n" +
			"  apex enrol approve 3f9c21d07be855aa --pr --controller https://apex.example.com --key ~/.ssh/id_ed25519",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if pr {
				return approveInGit(c.Context(), s, f, args[0], time.Now())
			}
			return decide(c.Context(), s, f, args[0], true)
		},
	}
	f.register(c)
	c.Flags().BoolVar(&pr, "pr", false, "write the approval into the clone instead of signing it")
	return c
}

func newEnrolDeny(s cli.Streams) *cobra.Command {
	var f enrolFlags
	c := &cobra.Command{
		Use:   "deny ID|NODE",
		Short: "Refuse a node that waits for a review",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return decide(c.Context(), s, f, args[0], false)
		},
	}
	f.register(c)
	return c
}

// decide signs and sends a maintainer's word on one request.
func decide(ctx context.Context, s cli.Streams, f enrolFlags, what string, approve bool) error {
	r, e, done, err := f.read(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	w, err := e.find(what)
	if err != nil {
		return err
	}
	if err := r.Decide(ctx, w, approve); err != nil {
		return coded(err)
	}
	word := "denied"
	if approve {
		word = "approved"
	}
	fmt.Fprintf(s.Err, "%s %s of %s in zone %s (subject %q, rule %s, routes %s, relay %t, keys %s, %s)\n", word, w.Node,
		whose(w.Issuer, w.Username, w.Subject), w.Zone, w.Subject, w.Rule, routesOf(w.Routes), w.Relay,
		spec.Key(w.PublicKey), spec.Key(w.IdentityKey))
	return nil
}

// approveInGit writes the approval of a request that waits into the clone.
func approveInGit(ctx context.Context, s cli.Streams, f enrolFlags, what string, now time.Time) error {
	w, err := validWorkspace(s, f.dir, now)
	if err != nil {
		return err
	}
	_, e, done, err := f.read(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	waiting, err := e.find(what)
	if err != nil {
		return err
	}
	path, err := w.writeApproval(s, waiting, now)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Out, path)
	fmt.Fprintf(s.Err, "approved %s of %s in %s; now make it a pull request:\n\n"+
		"  git switch -c approve-%[1]s\n  git commit -S -m 'Approve node %[1]s' -- %[3]s\n  git push -u origin approve-%[1]s\n",
		waiting.Node, whose(waiting.Issuer, waiting.Username, waiting.Subject), path)
	return nil
}

// writeApproval adds the approval to the zone's document, checks that the file then says this and nothing else, and
// gives the file's path.
func (w *workspace) writeApproval(s cli.Streams, waiting protocol.Waiting, now time.Time) (string, error) {
	zone, err := w.zoneDocument(waiting.Zone)
	if err != nil {
		return "", err
	}
	approval := spec.Approval{
		Node: waiting.Node, PublicKey: spec.Key(waiting.PublicKey), IdentityKey: spec.Key(waiting.IdentityKey),
		Issuer: waiting.Issuer, Subject: waiting.Subject, Rule: waiting.Rule, Routes: waiting.Routes, Relay: waiting.Relay,
	}
	if slices.ContainsFunc(zone.Value.Spec.Approved, approval.Equal) {
		return "", cli.WithCode(cli.Invalid, fmt.Errorf(
			"%s approves node %s as it waits already; commit and push it", zone.Pos, waiting.Node))
	}
	file, err := w.fileOf(zone.Pos)
	if err != nil {
		return "", err
	}
	item, err := linesOf(approval)
	if err != nil {
		return "", err
	}
	text, err := appendItem(file.Data, zone.Pos.Line, "approved", item)
	if err != nil {
		return "", cli.WithCode(cli.Invalid, fmt.Errorf("%s: zone %s: %w; add this to spec.approved by hand: {%s}",
			zone.Pos, waiting.Zone, err, strings.Join(item, ", ")))
	}
	wanted := zone.Value
	wanted.Spec.Approved = append(wanted.Spec.Approved[:len(wanted.Spec.Approved):len(wanted.Spec.Approved)], approval)
	return file.Path, w.rewrite(s, spec.File{Path: file.Path, Data: text}, wanted, func(next *workspace) (any, error) {
		z, err := next.zoneDocument(waiting.Zone)
		if err != nil {
			return nil, err
		}
		return z.Value, nil
	}, now)
}

// rewrite puts a changed file in its place if the network stays valid and the document that read finds in it says what
// was wanted: an edit by program must not slip in anything else.
func (w *workspace) rewrite(
	s cli.Streams, file spec.File, wanted any, read func(*workspace) (any, error), now time.Time,
) error {
	next := &workspace{dir: w.dir}
	for _, f := range w.files {
		if f.Path == file.Path {
			f = file
		}
		next.files = append(next.files, f)
	}
	if err := next.check(s, now); err != nil {
		return fmt.Errorf("%s %w; nothing was written", file.Path, err)
	}
	got, err := read(next)
	if err != nil {
		return err
	}
	have, err := spec.Marshal(got)
	if err != nil {
		return err
	}
	want, err := spec.Marshal(wanted)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) || len(w.repo.Nodes) != len(next.repo.Nodes) || len(w.repo.Zones) != len(next.repo.Zones) {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w; run apex fmt and try again, or edit it by hand", file.Path, errEdit))
	}
	return replaceFile(filepath.Join(w.dir, filepath.FromSlash(file.Path)), file.Data)
}

// check loads the files and prints what is wrong with them.
func (w *workspace) check(s cli.Streams, now time.Time) error {
	w.repo, w.found = spec.Load(w.files)
	if !w.found.HasErrors() {
		w.found = append(w.found, w.repo.Validate(now)...)
	}
	if !w.found.HasErrors() {
		return nil
	}
	w.found.Sort()
	if err := w.render(s, "human"); err != nil {
		return err
	}
	return cli.WithCode(cli.Invalid, errors.New("would not be valid"))
}

// zoneDocument finds a zone's document.
func (w *workspace) zoneDocument(name string) (*spec.Document[spec.Zone], error) {
	for _, z := range w.repo.Zones {
		if z.Value.Metadata.Name == name {
			return z, nil
		}
	}
	return nil, cli.WithCode(cli.Invalid, fmt.Errorf("zone %q is not in %s", name, w.dir))
}
