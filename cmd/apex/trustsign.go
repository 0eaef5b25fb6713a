package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
)

func newTrustSign(s cli.Streams) *cobra.Command {
	var key, attach string
	var message bool
	c := &cobra.Command{
		Use:   "sign [DIR]",
		Short: "Add a root key's signature to the version that still needs some",
		Long: `Sign adds one signature. On a machine without Apex the same is done with OpenSSH alone:

  apex trust sign --message > root.msg                       # here
  ssh-keygen -Y sign -n apex-root@v1 -f KEY root.msg         # there
  apex trust sign --attach root.msg.sig                      # here

--key names a private key file, or a .pub file whose key ssh-agent holds (hardware keys).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return trustSign(s, folderArg(args, 0), key, attach, message)
		},
	}
	c.Flags().StringVar(&key, "key", "", "SSH key to sign with")
	c.Flags().StringVar(&attach, "attach", "", "signature file made by ssh-keygen -Y sign -n apex-root@v1")
	c.Flags().BoolVar(&message, "message", false, "print the bytes to sign and do nothing else")
	c.MarkFlagsOneRequired("key", "attach", "message")
	c.MarkFlagsMutuallyExclusive("key", "attach", "message")
	return c
}

func trustSign(s cli.Streams, dir, key, attach string, message bool) error {
	t, err := openTrust(dir)
	if err != nil {
		return err
	}
	if t.open == nil {
		return cli.WithCode(cli.Invalid, errors.New("every version has the signatures it needs; edit trust/root.yaml and run apex trust rotate first"))
	}
	if message {
		_, err := s.Out.Write(t.open.PAE())
		return err
	}
	env, err := t.sign(s, key, attach)
	if err != nil {
		return err
	}
	if err := t.save(env); err != nil {
		return err
	}
	return t.reportQuorums(s, env)
}

func (t *trustFolder) sign(s cli.Streams, key, attach string) (*signer.Envelope, error) {
	if attach != "" {
		data, err := readInput(attach, s.In)
		if err != nil {
			return nil, err
		}
		env, err := t.open.AttachSSH(data)
		return env, cli.WithCode(cli.Trust, err)
	}
	k, done, err := openSSHKey(s, key)
	if err != nil {
		return nil, err
	}
	defer done()
	env, err := trustdir.Sign(t.open, t.signed.Root, k)
	return env, cli.WithCode(cli.Trust, err)
}

func newTrustRotate(s cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate [DIR]",
		Short: "Make an edited trust/root.yaml the next version, unsigned",
		Long: `Rotate sets spec.version in trust/root.yaml to the next one, checks the document and writes the unsigned envelope
trust/roots/N.json. It then needs the root threshold of the version before and of its own: apex trust sign.
Running it again after another edit starts the collection of signatures anew.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return trustRotate(s, folderArg(args, 0))
		},
	}
}

func trustRotate(s cli.Streams, dir string) error {
	t, err := openTrust(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, filepath.FromSlash(trustdir.RootPath))
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; apex trust init writes it", err)
	}
	text, err := setVersion(data, t.openVersion())
	if err != nil {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w", trustdir.RootPath, err))
	}
	root, err := trustdir.ParseDocument(text, t.network)
	if err != nil {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w", trustdir.RootPath, err))
	}
	env, err := trustdir.Propose(t.signed.Root, root)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	if err := replaceFile(path, text); err != nil {
		return err
	}
	if err := t.save(env); err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "wrote %s\n", trustdir.EnvelopePath(root.Version))
	return t.reportQuorums(s, env)
}

// setVersion writes spec.version into a TrustRoot document in place, touching nothing else.
func setVersion(data []byte, version uint64) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	n := child(child(&doc, "spec"), "version")
	if n == nil || n.Kind != yaml.ScalarNode {
		return nil, errors.New("spec.version is missing")
	}
	start := offset(data, n.Line, n.Column)
	end := start + len(n.Value)
	if end > len(data) || string(data[start:end]) != n.Value {
		return nil, errors.New("spec.version is not a plain number")
	}
	out := append([]byte{}, data[:start]...)
	out = strconv.AppendUint(out, version, 10)
	return append(out, data[end:]...), nil
}

// child gives the value of a key of a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n != nil && n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// offset turns a 1-based line and column into a byte offset. What stands before spec.version on its line is ASCII.
func offset(data []byte, line, column int) int {
	at := 0
	for ; line > 1 && at < len(data); at++ {
		if data[at] == '\n' {
			line--
		}
	}
	return at + column - 1
}
