package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
)

func newTrustSeal(s cli.Streams) *cobra.Command {
	var key, dir string
	c := &cobra.Command{
		Use:   "seal REV",
		Short: "Vouch, as a root key, for a commit and everything before it",
		Long: `Seal bridges commits that can no longer be judged: their signer has left, or a key was lost. It adds one root key's
signature to trust/seals/COMMIT.json. When the root threshold is met, counting whoever signs the sealing commit, commit
that file with a root key and the trailer that seal prints. With a root threshold of 1 the trailer alone is enough, and
there is no file.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return trustSeal(c.Context(), s, dir, args[0], key)
		},
	}
	c.Flags().StringVar(&key, "key", "", "SSH key to sign with; a .pub file means the key is in ssh-agent")
	c.Flags().StringVarP(&dir, "dir", "C", ".", "the clone")
	return c
}

func trustSeal(ctx context.Context, s cli.Streams, dir, rev, key string) error {
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	defer local.Close()
	commit, err := local.Resolve(ctx, rev)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	t, err := openTrust(dir)
	if err != nil {
		return err
	}
	root := t.signed.Root
	if root == nil {
		return cli.WithCode(cli.Invalid, errors.New("there is no signed trust root yet: apex trust sign"))
	}
	signed := 0
	if root.Root.Threshold > 1 {
		if signed, err = t.addSeal(s, root, commit, key); err != nil {
			return err
		}
	}
	// Whoever signs the commit with the trailer counts too.
	if signed+1 < root.Root.Threshold {
		fmt.Fprintf(s.Err, "%d of %d root keys vouch for %.12s; seal it with another\n", signed, root.Root.Threshold, commit)
		return nil
	}
	who := "any root key"
	if signed < root.Root.Threshold {
		who = "a root key that has not vouched yet"
	}
	fmt.Fprintf(s.Err, "commit it with %s and this trailer: git commit -S --allow-empty\n", who)
	_, err = fmt.Fprintf(s.Out, "Apex-Seal: %s\n", commit)
	return err
}

// addSeal adds a key's signature to the seal of a commit and gives the number of root keys that have signed it.
func (t *trustFolder) addSeal(s cli.Streams, root *signer.Root, commit, key string) (int, error) {
	if key == "" {
		return 0, cli.WithCode(cli.Invalid, errors.New("--key is missing: name your root key"))
	}
	path := filepath.Join(t.dir, filepath.FromSlash(trustdir.SealPath(commit)))
	seal, err := readSeal(path)
	if err != nil {
		return 0, err
	}
	k, done, err := openSSHKey(s, key)
	if err != nil {
		return 0, err
	}
	defer done()
	armoured, err := signer.SSHSign(k, trustdir.NamespaceSeal, trustdir.SealStatement(t.network, commit))
	if err != nil {
		return 0, fmt.Errorf("sign seal: %w", err)
	}
	seal.Signatures = append(seal.Signatures, string(armoured))
	names, err := seal.Signers(root, commit)
	if err != nil {
		return 0, cli.WithCode(cli.Trust, err)
	}
	if len(names) < len(seal.Signatures) {
		return 0, cli.WithCode(cli.Invalid, fmt.Errorf("this key has vouched for %.12s already", commit))
	}
	data, err := seal.Encode()
	if err != nil {
		return 0, err
	}
	if len(seal.Signatures) == 1 {
		return len(names), createFile(path, data)
	}
	return len(names), replaceFile(path, data)
}

func readSeal(path string) (trustdir.Seal, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return trustdir.Seal{}, nil
	}
	if err != nil {
		return trustdir.Seal{}, err
	}
	seal, err := trustdir.ParseSeal(data)
	return seal, cli.WithCode(cli.Invalid, err)
}
