package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

func newTrust(s cli.Streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Keep the trust root, and explain why commits are accepted or not",
		Long: `The trust root says whose signatures count for what. It stands in trust/root.yaml, which people review, and in
trust/roots/N.json, which the root keys sign:

  apex trust init     writes version 1, unsigned
  apex trust sign     adds one root key's signature; repeat until the threshold is met
  apex trust rotate   turns an edited trust/root.yaml into the next version, to be signed
  apex trust show     prints versions, roles, digests, and whose signatures are missing

  apex trust issuer-keys URL   prints the keys of an identity provider, for a witness that signs with ID tokens`,
	}
	c.AddCommand(newTrustInit(s), newTrustSign(s), newTrustRotate(s), newTrustShow(s), newTrustVerify(s), newTrustSeal(s), newTrustIssuerKeys(s))
	return c
}

// trustFolder is the trust/ folder of a clone, with the newest version possibly still short of signatures.
type trustFolder struct {
	dir     string
	network string
	// signed is the chain of versions whose signatures suffice; its Root is nil if there is none yet.
	signed trustdir.Dir
	// open is the version after it, if its envelope is there and lacks signatures.
	open *signer.Envelope
}

// openTrust reads the trust folder of the network in dir. The first version is pinned by its own digest: who runs this
// looks at their own clone.
func openTrust(dir string) (*trustFolder, error) {
	files, err := readFolder(dir)
	if err != nil {
		return nil, err
	}
	t := &trustFolder{dir: dir}
	if t.network, err = networkName(files); err != nil {
		return nil, err
	}
	for version := uint64(1); ; version++ {
		data, err := os.ReadFile(t.path(version))
		if errors.Is(err, fs.ErrNotExist) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		env, err := signer.ParseEnvelope(data, peermap.MaxRootBytes)
		if err != nil {
			return nil, cli.WithCode(cli.Trust, fmt.Errorf("%s: %w", trustdir.EnvelopePath(version), err))
		}
		root, err := t.verify(env, data)
		if errors.Is(err, signer.ErrThreshold) {
			t.open = env
			return t, t.nothingAfter(version)
		}
		if err != nil {
			return nil, cli.WithCode(cli.Trust, fmt.Errorf("%s: %w", trustdir.EnvelopePath(version), err))
		}
		t.signed.Root, t.signed.Chain = root, append(t.signed.Chain, data)
	}
}

func (t *trustFolder) verify(env *signer.Envelope, data []byte) (*signer.Root, error) {
	if t.signed.Root == nil {
		return signer.VerifyFirstRoot(data, peermap.DigestOf(env.Payload), t.network)
	}
	return signer.VerifyNextRoot(t.signed.Root, data)
}

// nothingAfter refuses a version that follows one without enough signatures.
func (t *trustFolder) nothingAfter(version uint64) error {
	if _, err := os.Stat(t.path(version + 1)); err == nil {
		return cli.WithCode(cli.Trust, fmt.Errorf("%s is there, but version %d lacks signatures; sign %d first: apex trust sign",
			trustdir.EnvelopePath(version+1), version, version))
	}
	return nil
}

func (t *trustFolder) path(version uint64) string {
	return filepath.Join(t.dir, filepath.FromSlash(trustdir.EnvelopePath(version)))
}

// openVersion is the version that collects signatures.
func (t *trustFolder) openVersion() uint64 {
	if t.signed.Root == nil {
		return 1
	}
	return t.signed.Root.Version + 1
}

// pin is the digest of the first root, which agents and controllers are given; false if there is no version yet.
func (t *trustFolder) pin() (peermap.Digest, bool) {
	first := t.open
	if len(t.signed.Chain) > 0 {
		env, err := signer.ParseEnvelope(t.signed.Chain[0], peermap.MaxRootBytes)
		if err != nil {
			return peermap.Digest{}, false
		}
		first = env
	}
	if first == nil {
		return peermap.Digest{}, false
	}
	return peermap.DigestOf(first.Payload), true
}

// save writes the open envelope.
func (t *trustFolder) save(env *signer.Envelope) error {
	data, err := env.Encode()
	if err != nil {
		return err
	}
	path := t.path(t.openVersion())
	if _, err := os.Stat(path); err == nil {
		return replaceFile(path, data)
	}
	return createFile(path, data)
}

// reportQuorums says on stderr how far the open version is.
func (t *trustFolder) reportQuorums(s cli.Streams, env *signer.Envelope) error {
	quorums, err := trustdir.Quorums(env, t.signed.Root)
	if err != nil {
		return err
	}
	missing := false
	for _, q := range quorums {
		if !q.Met() {
			missing = true
			fmt.Fprintf(s.Err, "%s: %s\n", q.What, q.Lacks)
		}
	}
	if !missing {
		fmt.Fprintf(s.Err, "version %d has every signature it needs; commit trust/ with a root key: git commit -S\n", t.openVersion())
	}
	return nil
}
