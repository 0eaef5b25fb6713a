package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/plan"
)

// planFlags choose what is compared with what, and who knows of enrolled nodes.
type planFlags struct {
	remoteFlags
	from, to, format string
	detailed         bool
}

func newPlan(s cli.Streams) *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Show what a change does: who gains and loses which reachability",
		Long: `Plan compares two states of a network and prints reachability gained and lost, hosts whose state changes, routes and
addresses that move, and changes that no PolicyTest covers.

Without flags it compares the working tree with the point where this branch left its target branch. DIR is the clone
or a folder of it (default: this folder).

What a change does to nodes that joined by identity only the controller knows: with --controller and --key the plan shows who
joins or leaves by it, and with which labels. A controller that cannot be reached is no error; the plan says what is missing.

Exit codes: 0 done, 3 a state is invalid; with --detailed-exitcode: 0 no changes, 2 changes.`,
		Example: "  apex plan\n  apex plan --from origin/main --to HEAD -o markdown\n" +
			"  apex plan --controller https://apex.example.com --key ~/.ssh/id_ed25519",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return runPlan(c.Context(), s, folderArg(args, 0), f, time.Now())
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.from, "from", "", "revision to start from (default: the merge base with the target branch)")
	c.Flags().StringVar(&f.to, "to", "", "revision to end at (default: the working tree)")
	c.Flags().StringVarP(&f.format, "output", "o", "text", "how to print it: text, json or markdown")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit 2 if there are changes")
	return c
}

func runPlan(ctx context.Context, s cli.Streams, dir string, f planFlags, now time.Time) error {
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return cli.WithCode(cli.Invalid, fmt.Errorf("plan compares commits: %w", err))
	}
	defer local.Close()
	base, err := planBase(ctx, local, f)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	old, err := stateAt(ctx, s, local, dir, base, now)
	if err != nil {
		return err
	}
	next, err := stateAt(ctx, s, local, dir, f.to, now)
	if err != nil {
		return err
	}
	p, err := f.diff(ctx, s, old, next, now)
	if err != nil {
		return err
	}
	switch f.format {
	case "text":
		err = p.Text(s.Out, s.Color)
	case "json":
		err = p.JSON(s.Out)
	case "markdown":
		err = p.Markdown(s.Out)
	default:
		err = cli.WithCode(cli.Invalid, fmt.Errorf("output format %q: want text, json or markdown", f.format))
	}
	if err != nil {
		return err
	}
	if f.detailed && !p.Empty() {
		return cli.Quiet(cli.Changes)
	}
	return nil
}

// planPatience bounds how long a plan waits for a controller.
const planPatience = 15 * time.Second

// diff compares the states, with the bindings of the controller if one is named and can be asked.
func (f *planFlags) diff(ctx context.Context, s cli.Streams, old, next *spec.Repository, now time.Time) (*plan.Plan, error) {
	if f.controller == "" {
		return plan.Diff(old, next, now), nil
	}
	network := networkOf(old, next)
	if network == "" {
		return nil, cli.WithCode(cli.Invalid, errors.New("neither state names a network to ask the controller about"))
	}
	r, done, err := f.open(s, network)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, planPatience)
	defer cancel()
	list, err := r.Enrolments(ctx)
	var refused *protocol.Problem
	if errors.As(err, &refused) {
		return nil, coded(err)
	}
	if err != nil {
		fmt.Fprintf(s.Err, "warning: who has joined by identity is not known: %v\n", err)
		return plan.Diff(old, next, now), nil
	}
	e, err := readEnrolments(list, "")
	if err != nil {
		return nil, err
	}
	signed := make([]*binding.Signed, len(e.Bindings))
	for i, b := range e.Bindings {
		signed[i] = &binding.Signed{Binding: b.Binding, Digest: b.Digest}
	}
	return plan.DiffEnrolled(old, next, now, signed), nil
}

// networkOf is the name of the network, which either state may not have yet.
func networkOf(old, next *spec.Repository) string {
	for _, repo := range []*spec.Repository{next, old} {
		if repo != nil && repo.Network != nil {
			return repo.Network.Value.Metadata.Name
		}
	}
	return ""
}

// planBase is the commit that the plan starts from.
func planBase(ctx context.Context, local *gitsource.Local, f planFlags) (string, error) {
	if f.from != "" {
		return local.Resolve(ctx, f.from)
	}
	to := f.to
	if to == "" {
		to = "HEAD"
	}
	head, err := local.Resolve(ctx, to)
	if err != nil {
		return "", err
	}
	_, target, err := local.Target(ctx)
	if err != nil {
		return "", err
	}
	return local.MergeBase(ctx, head, target)
}

// stateAt loads the network at a revision, or as it stands in dir when rev is empty. A network folder may be a
// subfolder of the clone; then only what is below it counts.
func stateAt(ctx context.Context, s cli.Streams, local *gitsource.Local, dir, rev string, now time.Time) (*spec.Repository, error) {
	if rev == "" {
		w, err := validWorkspace(s, dir, now)
		if err != nil {
			return nil, err
		}
		return w.repo, nil
	}
	commit, err := local.Resolve(ctx, rev)
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	list, err := local.Files(ctx, commit)
	if err != nil {
		return nil, fmt.Errorf("commit %.12s: %w", commit, err)
	}
	files, err := local.ReadAll(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("commit %.12s: %w", commit, err)
	}
	prefix, err := prefixOf(local.Root(), dir)
	if err != nil {
		return nil, err
	}
	files = below(files, prefix)
	if len(files) == 0 {
		return nil, nil // before the network began
	}
	w := &workspace{dir: fmt.Sprintf("commit %.12s", commit), files: files}
	w.repo, w.found = spec.Load(files)
	if w.found.HasErrors() {
		if err := w.render(s, "human"); err != nil {
			return nil, err
		}
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("%s is not valid; choose another with --from or --to", w.dir))
	}
	return w.repo, nil
}

// prefixOf is dir relative to the clone's root, slash-separated, "" for the root itself and for bare repositories.
func prefixOf(root, dir string) (string, error) {
	if root == "" {
		return "", nil
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	rel, err := filepath.Rel(root, abs)
	if err != nil || rel == "." {
		return "", err
	}
	return filepath.ToSlash(rel) + "/", nil
}

// below keeps the files under prefix and makes their paths relative to it.
func below(files []spec.File, prefix string) []spec.File {
	if prefix == "" {
		return files
	}
	var out []spec.File
	for _, f := range files {
		if rest, ok := strings.CutPrefix(f.Path, prefix); ok {
			out = append(out, spec.File{Path: rest, Data: f.Data})
		}
	}
	return out
}
