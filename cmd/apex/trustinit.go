package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/spec"
)

// trustFlags describe a first trust root on the command line.
type trustFlags struct {
	root, manifest, witness, enrolment []string
	threshold                          int
}

func newTrustInit(s cli.Streams) *cobra.Command {
	var f trustFlags
	c := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write version 1 of the trust root, unsigned",
		Long: `Init writes trust/root.yaml and the unsigned trust/roots/1.json for the network in DIR (default: this folder). The
root keys become maintainers of every path and may apply; edit trust/root.yaml afterwards and use "apex trust rotate"
for finer rules. With a witness, a manifest needs the controller's signature and the witness's. The issuers that the network
has are listed too: hosts then get tokens of no others, whatever a controller says.`,
		Example: "  apex trust init --root alice=$HOME/.ssh/id_ed25519.pub --controller main=$(apex-controller keygen manifest.key)\n" +
			"  apex trust init --root alice=$HOME/.ssh/id_ed25519.pub --controller main=$(apex-controller keygen manifest.key) \\\n" +
			"    --enrolment enrolment=$(apex-controller keygen enrolment.key)",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return trustInit(s, folderArg(args, 0), f)
		},
	}
	c.Flags().StringArrayVar(&f.root, "root", nil, "root key as NAME=SSH_PUBLIC_KEY_FILE; repeatable")
	c.Flags().IntVar(&f.threshold, "threshold", 1, "how many root keys must sign a trust root")
	c.Flags().StringArrayVar(&f.manifest, "controller", nil, "controller key as NAME=BASE64, from apex-controller keygen; repeatable")
	c.Flags().StringArrayVar(&f.witness, "witness", nil, "witness key as NAME=BASE64; repeatable; raises the manifest threshold to 2")
	c.Flags().StringArrayVar(&f.enrolment, "enrolment", nil, "enrolment key as NAME=BASE64, for networks that people join by identity; repeatable")
	return c
}

func trustInit(s cli.Streams, dir string, f trustFlags) error {
	files, err := readFolder(dir)
	if err != nil {
		return err
	}
	repo, err := loadNetwork(files)
	if err != nil {
		return err
	}
	network := repo.Network.Value.Metadata.Name
	doc, err := f.document(network)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	for _, i := range repo.Network.Value.Spec.Issuers {
		doc.Spec.Issuers = append(doc.Spec.Issuers, spec.TrustedIssuer{URL: i.URL, Audience: i.Audience, ClientID: i.ClientID})
	}
	root, err := trustdir.RootFromSpec(doc.Spec, network)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	env, err := trustdir.Propose(nil, root)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	text, err := spec.Marshal(doc)
	if err != nil {
		return fmt.Errorf("write trust root: %w", err)
	}
	if err := createFile(filepath.Join(dir, filepath.FromSlash(trustdir.RootPath)), text); err != nil {
		return err
	}
	t := &trustFolder{dir: dir, network: network}
	if err := t.save(env); err != nil {
		os.Remove(filepath.Join(dir, filepath.FromSlash(trustdir.RootPath)))
		return err
	}
	fmt.Fprintln(s.Out, root.Digest())
	fmt.Fprintf(s.Err, "wrote %s and %s; the digest above pins the network on controllers and agents\n", trustdir.RootPath, trustdir.EnvelopePath(1))
	return t.reportQuorums(s, env)
}

// document is the trust root that the flags describe.
func (f trustFlags) document(network string) (spec.TrustRoot, error) {
	if len(f.root) == 0 || len(f.manifest) == 0 {
		return spec.TrustRoot{}, fmt.Errorf("a trust root needs at least one --root and one --controller key")
	}
	d := spec.TrustRoot{Metadata: spec.Metadata{Name: network}, Spec: spec.TrustRootSpec{Version: 1, Epoch: 1}}
	d.Spec.Root.Threshold = f.threshold
	for _, v := range f.root {
		name, file, err := named("--root", v)
		if err != nil {
			return d, err
		}
		line, err := readSSHPublicKey(file)
		if err != nil {
			return d, err
		}
		d.Spec.Keys = append(d.Spec.Keys, spec.TrustKey{Name: name, SSH: line})
		d.Spec.Root.Keys = append(d.Spec.Root.Keys, name)
		d.Spec.Appliers.Keys = append(d.Spec.Appliers.Keys, name)
	}
	d.Spec.Maintainers = []spec.MaintainerRule{{Name: "everything", Keys: d.Spec.Root.Keys, Paths: []string{"**"}}}
	for _, v := range f.manifest {
		if err := addRaw(&d.Spec, "--controller", v, &d.Spec.Manifest, &d.Spec.Timestamp); err != nil {
			return d, err
		}
	}
	for _, v := range f.witness {
		var witness spec.Role
		if err := addRaw(&d.Spec, "--witness", v, &witness); err != nil {
			return d, err
		}
		d.Spec.Witnesses.Keys = append(d.Spec.Witnesses.Keys, witness.Keys...)
		d.Spec.Manifest.Threshold = 2
	}
	for _, v := range f.enrolment {
		if err := addRaw(&d.Spec, "--enrolment", v, &d.Spec.Enrolment); err != nil {
			return d, err
		}
	}
	return d, nil
}

// addRaw adds an Ed25519 key and gives it roles.
func addRaw(ts *spec.TrustRootSpec, flag, v string, roles ...*spec.Role) error {
	name, text, err := named(flag, v)
	if err != nil {
		return err
	}
	key, err := spec.ParseKey(text)
	if err != nil {
		return fmt.Errorf("%s %s: %w", flag, name, err)
	}
	ts.Keys = append(ts.Keys, spec.TrustKey{Name: name, Ed25519: key})
	for _, r := range roles {
		r.Keys = append(r.Keys, name)
	}
	return nil
}

// named splits NAME=VALUE.
func named(flag, v string) (name, value string, err error) {
	name, value, ok := strings.Cut(v, "=")
	if !ok || name == "" || value == "" {
		return "", "", fmt.Errorf("%s %q: want NAME=VALUE", flag, v)
	}
	return name, value, nil
}

// networkName is the name in the Network document.
func networkName(files []spec.File) (string, error) {
	repo, err := loadNetwork(files)
	if err != nil {
		return "", err
	}
	return repo.Network.Value.Metadata.Name, nil
}

// loadNetwork loads the files, among which there must be a Network document that can be read. Others may be wrong.
func loadNetwork(files []spec.File) (*spec.Repository, error) {
	repo, found := spec.Load(files)
	if repo != nil && repo.Network != nil {
		return repo, nil
	}
	if err := found.Err(); err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	return nil, cli.WithCode(cli.Invalid, fmt.Errorf("no Network document here; run apex init first, or name the clone's folder"))
}
