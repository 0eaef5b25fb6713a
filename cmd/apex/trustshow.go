package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/jwk"
	"github.com/apex-network/apex/spec/peermap"
)

// trustView is what `apex trust show -o json` prints.
type trustView struct {
	Network string `json:"network"`
	// Pin is the digest of version 1, hex.
	Pin  string       `json:"pin"`
	Root *signer.Root `json:"root,omitempty"`
	// Open is the version that collects signatures.
	Open *openView `json:"open,omitempty"`
}

type openView struct {
	Version uint64   `json:"version"`
	Lacks   []string `json:"lacks"`
}

func newTrustShow(s cli.Streams) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "show [DIR]",
		Short: "Print the trust root, its digest, and whose signatures are missing",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := openTrust(folderArg(args, 0))
			if err != nil {
				return err
			}
			return t.show(s, format)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print it: text, json or yaml")
	return c
}

func (t *trustFolder) show(s cli.Streams, format string) error {
	pin, ok := t.pin()
	if !ok {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s has no trust root; apex trust init makes one", t.dir))
	}
	v := trustView{Network: t.network, Pin: pin.String(), Root: t.signed.Root}
	if t.open != nil {
		quorums, err := trustdir.Quorums(t.open, t.signed.Root)
		if err != nil {
			return err
		}
		v.Open = &openView{Version: t.openVersion(), Lacks: []string{}}
		for _, q := range quorums {
			if !q.Met() {
				v.Open.Lacks = append(v.Open.Lacks, q.What+": "+q.Lacks)
			}
		}
	}
	if format != "text" {
		return cli.Print(s.Out, format, v)
	}
	return v.text(s)
}

func (v trustView) text(s cli.Streams) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "network\t%s\npin\t%s\n", v.Network, v.Pin)
	if v.Root != nil {
		fmt.Fprintf(w, "version\t%d (epoch %d)\n", v.Root.Version, v.Root.Epoch)
		for _, r := range []struct {
			name string
			role signer.Role
		}{{"root", v.Root.Root}, {"manifest", v.Root.Manifest}, {"witnesses", v.Root.Witnesses}, {"timestamp", v.Root.Timestamp},
			{"appliers", v.Root.Appliers}, {"enrolment", v.Root.Enrolment}, {"forge", v.Root.Forge}} {
			if len(r.role.Keys) > 0 {
				fmt.Fprintf(w, "%s\t%s%s\n", r.name, needed(r.name, r.role.Threshold), strings.Join(r.role.Keys, ", "))
			}
		}
		for _, a := range v.Root.ApplierIdentities {
			fmt.Fprintf(w, "applier %s\ttokens of %s for %s where %s and %s is the commit\n", a.Name, a.Issuer, a.Audience, rulesText(a.Match), a.CommitClaim)
		}
		for _, i := range v.Root.WitnessIdentities {
			fmt.Fprintf(w, "witness %s\ttokens of %s where %s, signed by %s\n", i.Name, i.Issuer, rulesText(i.Match), issuerKeyNames(i.Keys))
		}
		for _, i := range v.Root.Issuers {
			fmt.Fprintf(w, "issuer\t%s for %s\n", i.URL, i.Audience)
		}
		for _, m := range v.Root.Maintainers {
			fmt.Fprintf(w, "maintainer %s\t%s may change %s\n", m.Name, strings.Join(m.Keys, ", "), strings.Join(m.Paths, ", "))
		}
	}
	if v.Open != nil {
		fmt.Fprintf(w, "collecting\tversion %d\n", v.Open.Version)
		for _, l := range v.Open.Lacks {
			fmt.Fprintf(w, "\t%s\n", l)
		}
	}
	return w.Flush()
}

// rulesText words what an identity's claims must be.
func rulesText(rules []signer.ClaimRule) string {
	words := make([]string, len(rules))
	for i, r := range rules {
		words[i] = r.Claim + " is " + r.Pattern
	}
	return strings.Join(words, " and ")
}

// issuerKeyNames lists pinned keys by their IDs.
func issuerKeyNames(lines []string) string {
	names := make([]string, len(lines))
	for i, line := range lines {
		key, err := jwk.Parse([]byte(line))
		if names[i] = key.ID + " (" + key.Algorithm + ")"; err != nil {
			names[i] = "a key that cannot be read"
		}
	}
	return strings.Join(names, ", ")
}

// needed words a role's threshold. That of manifests counts the witnesses too, who need none of their own.
func needed(role string, threshold int) string {
	switch {
	case role == string(signer.RoleManifest):
		return fmt.Sprintf("%d signatures in all, at least one of them by ", threshold)
	case threshold == 0:
		return "may co-sign: "
	}
	return fmt.Sprintf("%d of ", threshold)
}

func newTrustVerify(s cli.Streams) *cobra.Command {
	var format, pin, dir string
	c := &cobra.Command{
		Use:   "verify-commit [REV | FROM..TO]",
		Short: "Say which commits are accepted, and why not",
		Long: `Verify-commit judges commits exactly as the controller does and prints, for each, the signer, the paths and the rule
that decided. FROM is taken as accepted; without it the judging starts at the commit that brings in the first trust
root. Default: HEAD.

Without --pin the first trust root in the clone itself is taken as the pinned one, which proves nothing about its origin.

Exit codes: 0 all accepted, 4 a commit is refused.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			span := "HEAD"
			if len(args) > 0 {
				span = args[0]
			}
			return trustVerify(c.Context(), s, dir, span, pin, format)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print verdicts: text, json or yaml")
	c.Flags().StringVar(&pin, "pin", "", "digest of the first trust root, hex")
	c.Flags().StringVarP(&dir, "dir", "C", ".", "the clone")
	return c
}

func trustVerify(ctx context.Context, s cli.Streams, dir, span, pin, format string) error {
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	defer local.Close()
	from, to, ranged := strings.Cut(span, "..")
	if !ranged {
		from, to = "", span
	}
	if to == "" {
		to = "HEAD"
	}
	head, err := local.Resolve(ctx, to)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	trust, err := localTrust(ctx, local, head, pin)
	if err != nil {
		return err
	}
	frontier, err := localFrontier(ctx, local, trust, from)
	if err != nil {
		return err
	}
	result, err := verify.Range(ctx, local, trust, frontier, head)
	if err != nil && !errors.Is(err, verify.ErrRefused) {
		return err
	}
	if perr := printVerdicts(s, format, result.Commits); perr != nil {
		return perr
	}
	if err != nil {
		return cli.Quiet(cli.Trust)
	}
	return nil
}

// localTrust is what a person's own clone says of the network's name and, unless given, of its pin.
func localTrust(ctx context.Context, local *gitsource.Local, head, pin string) (verify.Trust, error) {
	list, err := local.Files(ctx, head)
	if err != nil {
		return verify.Trust{}, err
	}
	files, err := local.ReadAll(ctx, list)
	if err != nil {
		return verify.Trust{}, err
	}
	var trust verify.Trust
	if trust.Network, err = networkName(files); err != nil {
		return trust, err
	}
	if pin != "" {
		if err := trust.Pin.UnmarshalText([]byte(pin)); err != nil {
			return trust, cli.WithCode(cli.Invalid, fmt.Errorf("--pin: %w", err))
		}
		return trust, nil
	}
	trust.Pin, err = firstRootDigest(ctx, local, head)
	return trust, err
}

// localFrontier takes a revision as accepted, after judging everything before it.
func localFrontier(ctx context.Context, local *gitsource.Local, trust verify.Trust, from string) (verify.Frontier, error) {
	if from == "" {
		return verify.Frontier{}, nil
	}
	commit, err := local.Resolve(ctx, from)
	if err != nil {
		return verify.Frontier{}, cli.WithCode(cli.Invalid, err)
	}
	result, err := verify.Range(ctx, local, trust, verify.Frontier{}, commit)
	if err != nil {
		return verify.Frontier{}, cli.WithCode(cli.Trust, fmt.Errorf("%s itself is not accepted: %w", from, err))
	}
	return result.Accepted, nil
}

// firstRootDigest is the digest of the first trust root in a commit.
func firstRootDigest(ctx context.Context, local *gitsource.Local, commit string) (peermap.Digest, error) {
	data, err := readPath(ctx, local, commit, trustdir.EnvelopePath(1), peermap.MaxRootBytes)
	if err != nil {
		return peermap.Digest{}, cli.WithCode(cli.Trust, fmt.Errorf("%s: %w; apex trust init makes one", trustdir.EnvelopePath(1), err))
	}
	env, err := signer.ParseEnvelope(data, peermap.MaxRootBytes)
	if err != nil {
		return peermap.Digest{}, cli.WithCode(cli.Trust, fmt.Errorf("%s: %w", trustdir.EnvelopePath(1), err))
	}
	return peermap.DigestOf(env.Payload), nil
}

// readPath reads one file of a commit, whatever its name.
func readPath(ctx context.Context, src gitobject.Objects, commit, path string, limit int64) ([]byte, error) {
	c, err := gitobject.ReadCommit(ctx, src, commit)
	if err != nil {
		return nil, err
	}
	e, err := gitobject.Find(ctx, src, c.Tree, path)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("not in commit %.12s: %w", commit, fs.ErrNotExist)
	}
	return src.Object(ctx, gitobject.KindBlob, e.ID, limit)
}

func printVerdicts(s cli.Streams, format string, verdicts []verify.CommitVerdict) error {
	if format != "text" {
		return cli.Print(s.Out, format, verdicts)
	}
	for _, v := range verdicts {
		mark := paint(s, green, "accepted")
		if !v.Accepted {
			mark = paint(s, red, "refused ")
		}
		fmt.Fprintf(s.Out, "%s %.12s %s\n", mark, v.Commit, v.Subject)
		if v.Signer != "" {
			fmt.Fprintf(s.Out, "         signed by %s, allowed by %s\n", v.Signer, orNone(v.Rule))
		}
		if !v.Accepted || v.Sealed {
			fmt.Fprintf(s.Out, "         %s: %s\n", v.Code, v.Reason)
		}
		if len(v.Paths) > 0 {
			fmt.Fprintf(s.Out, "         %s\n", strings.Join(v.Paths, " "))
		}
	}
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "no rule"
	}
	return text
}
