package gittest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// TrustRoot builds versions of a trust root. Its fields may be changed between versions.
type TrustRoot struct {
	Network string
	Spec    spec.TrustRootSpec
	env     *Env
	pin     peermap.Digest
}

// TrustRoot begins a trust root of version 1 with a root role of these SSH keys. Its manifest and timestamp key is
// ControllerKey.
func (e *Env) TrustRoot(network string, threshold int, rootKeys ...*SSHKey) *TrustRoot {
	e.tb.Helper()
	t := &TrustRoot{Network: network, env: e}
	t.Spec.Version, t.Spec.Epoch = 1, 1
	for _, k := range rootKeys {
		t.AddKey(k)
		t.Spec.Root.Keys = append(t.Spec.Root.Keys, k.name)
	}
	t.Spec.Root.Threshold = threshold
	t.Spec.Keys = append(t.Spec.Keys, spec.TrustKey{Name: "controller", Ed25519: e.ControllerKey().Raw()})
	t.Spec.Manifest.Keys = []string{"controller"}
	t.Spec.Timestamp.Keys = []string{"controller"}
	return t
}

// ControllerKey is the Ed25519 key of every trust root made here, named "controller" there. It is always the same.
func (e *Env) ControllerKey() signer.PrivateKey {
	e.tb.Helper()
	seed := sha256.Sum256([]byte("gittest controller key"))
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	key, err := signer.ParsePrivate(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	return key
}

// AddKey lists a key, once.
func (t *TrustRoot) AddKey(k Key) {
	for _, have := range t.Spec.Keys {
		if have.Name == k.Trust().Name {
			return
		}
	}
	t.Spec.Keys = append(t.Spec.Keys, k.Trust())
}

// RemoveKey takes a key out of the list and of every role and rule.
func (t *TrustRoot) RemoveKey(name string) {
	without := func(names []string) []string {
		var out []string
		for _, n := range names {
			if n != name {
				out = append(out, n)
			}
		}
		return out
	}
	var keys []spec.TrustKey
	for _, k := range t.Spec.Keys {
		if k.Name != name {
			keys = append(keys, k)
		}
	}
	t.Spec.Keys = keys
	for _, r := range []*spec.Role{&t.Spec.Root, &t.Spec.Forge} {
		r.Keys = without(r.Keys)
	}
	t.Spec.Appliers.Keys = without(t.Spec.Appliers.Keys)
	var rules []spec.MaintainerRule
	for _, m := range t.Spec.Maintainers {
		if m.Keys = without(m.Keys); len(m.Keys) > 0 {
			rules = append(rules, m)
		}
	}
	t.Spec.Maintainers = rules
}

// Maintainer adds a rule.
func (t *TrustRoot) Maintainer(rule string, k Key, paths []string, zones ...string) {
	t.AddKey(k)
	t.Spec.Maintainers = append(t.Spec.Maintainers, spec.MaintainerRule{Name: rule, Keys: []string{k.Trust().Name}, Paths: paths, Zones: zones})
}

// Forge gives a key the forge role.
func (t *TrustRoot) Forge(k Key) {
	t.AddKey(k)
	t.Spec.Forge.Keys = append(t.Spec.Forge.Keys, k.Trust().Name)
}

// Document is trust/root.yaml as it stands.
func (t *TrustRoot) Document() string {
	t.env.tb.Helper()
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := enc.Encode(struct {
		APIVersion string             `yaml:"apiVersion"`
		Kind       spec.Kind          `yaml:"kind"`
		Metadata   spec.Metadata      `yaml:"metadata"`
		Spec       spec.TrustRootSpec `yaml:"spec"`
	}{spec.APIVersion, spec.KindTrustRoot, spec.Metadata{Name: t.Network}, t.Spec})
	if err != nil {
		t.env.tb.Fatalf("gittest: %v", err)
	}
	return b.String()
}

// Root is the signed form of the document as it stands.
func (t *TrustRoot) Root() *signer.Root {
	t.env.tb.Helper()
	root, err := trustdir.RootFromSpec(t.Spec, t.Network)
	if err != nil {
		t.env.tb.Fatalf("gittest: %v", err)
	}
	return root
}

// Envelope signs the document as it stands with these keys, whoever they are.
func (t *TrustRoot) Envelope(keys ...*SSHKey) string {
	t.env.tb.Helper()
	payload, err := t.Root().Encode()
	if err != nil {
		t.env.tb.Fatalf("gittest: %v", err)
	}
	env := signer.NewEnvelope(signer.RootType, payload)
	for _, k := range keys {
		if env, err = env.AddSSH(k.Signer()); err != nil {
			t.env.tb.Fatalf("gittest: %v", err)
		}
	}
	b, err := env.Encode()
	if err != nil {
		t.env.tb.Fatalf("gittest: %v", err)
	}
	return string(b)
}

// Write writes root.yaml and the envelope of the version as it stands, signed by keys, into a working tree.
func (t *TrustRoot) Write(r *Repo, keys ...*SSHKey) {
	t.env.tb.Helper()
	r.Write(trustdir.RootPath, t.Document())
	r.Write(trustdir.EnvelopePath(uint64(t.Spec.Version)), t.Envelope(keys...))
	if t.Spec.Version == 1 {
		t.pin = t.Root().Digest()
	}
}

// Pin is the digest of version 1, once written.
func (t *TrustRoot) Pin() peermap.Digest { return t.pin }
