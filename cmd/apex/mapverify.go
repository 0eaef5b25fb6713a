package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// verdict is what `apex map verify -o json` prints of a zone.
type verdict struct {
	Zone       string `json:"zone"`
	Generation string `json:"generation"`
	Commit     string `json:"commit"`
	Equal      bool   `json:"equal"`
	Reason     string `json:"reason"`
}

func newMapVerify(s cli.Streams) *cobra.Command {
	var f remoteFlags
	var pin, format string
	c := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Recompile what a controller serves, and compare it byte for byte",
		Long: `Verify asks the controller which manifests it serves, checks their signatures against the trust root of the clone in
DIR (default: this folder), judges the commits they name, compiles them again, and compares. A controller that serves
anything but what git says is found out. Where nodes have enrolled, it takes their bindings from the controller: it then
shows that these and git give what is served. Only a witness judges who may hold a binding.

Exit codes: 0 equal, 4 not.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return mapVerify(c.Context(), s, folderArg(args, 0), pin, format, f)
		},
	}
	f.register(c)
	c.Flags().StringVar(&pin, "pin", "", "digest of the first trust root, hex (default: the one in the clone)")
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print verdicts: text, json or yaml")
	return c
}

func mapVerify(ctx context.Context, s cli.Streams, dir, pin, format string, f remoteFlags) error {
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	defer local.Close()
	head, err := local.Head(ctx)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	trust, err := localTrust(ctx, local, head, pin)
	if err != nil {
		return err
	}
	r, done, err := f.open(s, trust.Network)
	if err != nil {
		return err
	}
	defer done()
	fleet, err := r.Fleet(ctx)
	if err != nil {
		return coded(err)
	}
	enrolled, err := enrolledIn(ctx, r, fleet)
	if err != nil {
		return coded(err)
	}
	verdicts := []verdict{}
	for _, z := range fleet.Zones {
		if z.Current != nil {
			verdicts = append(verdicts, verifyZone(ctx, local, trust, z, enrolled))
		}
	}
	return reportVerdicts(s, format, verdicts)
}

// enrolledIn asks for the bindings in force if any zone has enrolled nodes.
func enrolledIn(ctx context.Context, r *client.Client, fleet protocol.FleetStatus) ([]*binding.Signed, error) {
	enrolled := func(z protocol.ZoneStatus) bool { return z.Current != nil && z.Current.Enrolled > 0 }
	if !slices.ContainsFunc(fleet.Zones, enrolled) {
		return nil, nil
	}
	list, err := r.Enrolments(ctx)
	if err != nil {
		return nil, err
	}
	var out []*binding.Signed
	for _, payload := range list.Bindings {
		s, err := binding.NewSigned(payload, nil)
		if err != nil {
			return nil, fmt.Errorf("bindings in force: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

// verifyZone arrives at a zone's manifest from git and the bindings in force. Number, predecessor and expiry are the controller's to choose.
func verifyZone(
	ctx context.Context, local *gitsource.Local, trust verify.Trust, z protocol.ZoneStatus, enrolled []*binding.Signed,
) verdict {
	v := verdict{Zone: z.Zone, Generation: fmt.Sprintf("%d.%d", z.Current.Epoch, z.Current.Serial), Commit: z.Current.Commit}
	if err := compareZone(ctx, local, trust, z, enrolled); err != nil {
		v.Reason = err.Error()
		return v
	}
	v.Equal, v.Reason = true, "git says the same, byte for byte"
	if z.Current.Enrolled > 0 {
		v.Reason = fmt.Sprintf("git and the bindings of %d enrolled nodes say the same, byte for byte; "+
			"only a witness judges what the bindings rest on", z.Current.Enrolled)
	}
	return v
}

func compareZone(
	ctx context.Context, local *gitsource.Local, trust verify.Trust, z protocol.ZoneStatus, enrolled []*binding.Signed,
) error {
	env, err := signer.ParseEnvelope(z.Current.Envelope, len(z.Current.Envelope))
	if err != nil {
		return fmt.Errorf("served manifest: %w", err)
	}
	b := build.New(localSource{local}, trust.Network, trust.Pin)
	result, err := b.Verify(ctx, verify.Frontier{}, z.Current.Commit)
	if err != nil {
		return fmt.Errorf("its commit: %w; fetch, if the clone lacks it", err)
	}
	served, err := result.Root.VerifyManifest(z.Current.Envelope)
	if err != nil {
		return fmt.Errorf("served manifest: %w", err)
	}
	if served.Commit != z.Current.Commit || served.Zone != z.Zone || served.Compiler != compile.Version {
		return fmt.Errorf("served manifest names commit %.12s, zone %s, compiler %s; this apex has compiler %s", served.Commit, served.Zone, served.Compiler, compile.Version)
	}
	asOf := time.Unix(served.AsOf, 0)
	loaded, err := b.Load(ctx, served.Commit, asOf)
	if err != nil {
		return err
	}
	if served.Bindings == (peermap.Digest{}) {
		enrolled = nil
	}
	admitted := b.Admit(loaded, enrolled, asOf)
	if list := admitted.Lists[z.Zone]; served.Bindings != (peermap.Digest{}) && peermap.DigestOf(list) != served.Bindings {
		return errEnrolled
	}
	zones, _, err := b.Compile(loaded, admitted, result.Root, asOf)
	if err != nil {
		return err
	}
	zone, ok := zones[z.Zone]
	if !ok {
		return fmt.Errorf("git has no zone %s at this commit", z.Zone)
	}
	arrived := zone.Manifest(served.Epoch, served.Serial, served.Previous, time.Unix(served.Expires, 0))
	arrived.Suspended = served.Suspended // a suspended zone keeps an older commit's content, signed again
	own, err := arrived.Encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(own, env.Payload) {
		return fmt.Errorf("the controller serves something else than git says: compare\n  git:    %s\n  served: %s", own, env.Payload)
	}
	return nil
}

// errEnrolled says that a generation cannot be judged, for the bindings that it was made of are not at hand.
var errEnrolled = errors.New("cannot be judged: nodes have enrolled in this zone, and the bindings in force now are not " +
	"those that this generation names; they change whenever a node joins, renews or leaves, so try again")

// localSource makes a person's clone the source of a build: nothing is fetched.
type localSource struct{ *gitsource.Local }

func (l localSource) Fetch(ctx context.Context) (string, error) { return l.Head(ctx) }

func reportVerdicts(s cli.Streams, format string, verdicts []verdict) error {
	code := cli.OK
	for _, v := range verdicts {
		if !v.Equal {
			code = cli.Trust
		}
	}
	if format != "text" {
		if err := cli.Print(s.Out, format, verdicts); err != nil {
			return err
		}
		return cli.Quiet(code)
	}
	for _, v := range verdicts {
		mark := paint(s, green, "equal ")
		if !v.Equal {
			mark = paint(s, red, "DIFFERS")
		}
		fmt.Fprintf(s.Out, "%s zone %s, generation %s of %.12s: %s\n", mark, v.Zone, v.Generation, v.Commit, v.Reason)
	}
	if len(verdicts) == 0 {
		fmt.Fprintln(s.Err, "the controller serves nothing yet")
	}
	return cli.Quiet(code)
}
