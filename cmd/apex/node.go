package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/spec"
)

// defaultKeyFolder is where the agent looks for the node's keys; the file names are the agent's too.
const (
	defaultKeyFolder = "/var/lib/apex"
	wireGuardKeyFile = "wireguard.key"
	identityKeyFile  = "identity.key"
)

func newNode(s cli.Streams) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Make a node's keys, add nodes to a clone, and rotate keys"}
	c.AddCommand(newNodeInit(s), newNodeAdd(s), newNodeRotate(s))
	return c
}

func newNodeInit(s cli.Streams) *cobra.Command {
	var zone, keys string
	c := &cobra.Command{
		Use:   "init NAME",
		Short: "Make this host's two keys and print its Node document",
		Long: `Init makes the node's WireGuard and identity keys in the key folder, with mode 0600, and prints the Node document with
their public halves for "apex node add". Keys that are there already are kept. The private keys never leave the host.`,
		Example: "  sudo apex node init db-1 --zone prod > db-1.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return nodeInit(s, args[0], zone, keys)
		},
	}
	c.Flags().StringVar(&zone, "zone", "main", "zone the node is to join")
	c.Flags().StringVar(&keys, "keys", defaultKeyFolder, "folder for wireguard.key and identity.key")
	return c
}

func nodeInit(s cli.Streams, name, zone, folder string) error {
	if !spec.ValidName(name) || !spec.ValidName(zone) {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%q in zone %q: names are lower-case letters, digits and dashes (DNS-1123)", name, zone))
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("key folder: %w", err)
	}
	wg, err := ensureKey(filepath.Join(folder, wireGuardKeyFile), keyfile.LoadWireGuard, keyfile.NewWireGuard)
	if err != nil {
		return err
	}
	id, err := ensureKey(filepath.Join(folder, identityKeyFile), keyfile.LoadEd25519, keyfile.NewEd25519)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, draft, spec.APIVersion, spec.KindNode, name, zone, spec.Key(wg.Public()), spec.Key(id.Raw()))
	return err
}

// ensureKey loads a key, or makes it if the file is not there.
func ensureKey[K any](path string, load func(string) (K, error), create func(string, io.Reader) (K, error)) (K, error) {
	k, err := load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, rand.Reader)
	}
	return k, err
}

// draft is a Node document as a host writes it: all but the address, which `apex node add` picks in the clone.
const draft = `apiVersion: %s
kind: %s
metadata:
  name: %s
  zone: %s
spec:
  publicKey: %s
  identityKey: %s
`

// nodeDraft is what readDraft takes.
type nodeDraft struct {
	APIVersion string        `yaml:"apiVersion"`
	Kind       string        `yaml:"kind"`
	Metadata   spec.Metadata `yaml:"metadata"`
	Spec       struct {
		Addresses   []netip.Addr     `yaml:"addresses,omitempty"`
		PublicKey   spec.Key         `yaml:"publicKey"`
		IdentityKey spec.Key         `yaml:"identityKey"`
		Endpoints   []string         `yaml:"endpoints,omitempty"`
		Routes      []spec.NodeRoute `yaml:"routes,omitempty"`
		ListenPort  uint16           `yaml:"listenPort,omitempty"`
	} `yaml:"spec"`
}

// readDraft reads a Node document that may lack its addresses.
func readDraft(name string, data []byte) (spec.Node, error) {
	doc, found := spec.Decode[nodeDraft](spec.File{Path: name, Data: data})
	if err := found.Err(); err != nil {
		return spec.Node{}, err
	}
	d := doc.Value
	if d.APIVersion != spec.APIVersion || d.Kind != string(spec.KindNode) {
		return spec.Node{}, fmt.Errorf("%s holds %s %s; want %s %s, as apex node init prints it", name, d.APIVersion, d.Kind, spec.APIVersion, spec.KindNode)
	}
	return spec.Node{Metadata: d.Metadata, Spec: spec.NodeSpec{Addresses: d.Spec.Addresses, PublicKey: d.Spec.PublicKey,
		IdentityKey: d.Spec.IdentityKey, Endpoints: d.Spec.Endpoints, Routes: d.Spec.Routes, ListenPort: d.Spec.ListenPort}}, nil
}
