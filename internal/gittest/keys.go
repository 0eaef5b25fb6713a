package gittest

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

// Key signs commits.
type Key interface {
	gitConfig() []string
	// Trust is the key's entry in a TrustRoot document.
	Trust() spec.TrustKey
}

// SSHKey is an SSH key pair in a file.
type SSHKey struct {
	env    *Env
	name   string
	File   string // private key; the public one is File + ".pub"
	Public string // authorized_keys line
}

// SSHKey makes an Ed25519 key pair.
func (e *Env) SSHKey(name string) *SSHKey { e.tb.Helper(); return e.SSHKeyOf(name, "ed25519") }

// SSHKeyOf makes a key pair with ssh-keygen's flags for the type, e.g. "rsa", "-b", "3072".
func (e *Env) SSHKeyOf(name string, kind ...string) *SSHKey {
	e.tb.Helper()
	file := filepath.Join(e.home, "keys", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	e.Run(e.home, nil, "ssh-keygen", append([]string{"-q", "-N", "", "-C", name, "-f", file, "-t"}, kind...)...)
	return e.loadSSHKey(name, file)
}

func (e *Env) loadSSHKey(name, file string) *SSHKey {
	e.tb.Helper()
	public, err := os.ReadFile(file + ".pub")
	if err != nil {
		e.tb.Fatalf("gittest: %v", err)
	}
	return &SSHKey{env: e, name: name, File: file, Public: strings.TrimSpace(string(public))}
}

func (k *SSHKey) gitConfig() []string {
	return []string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + k.File}
}

// Trust implements Key.
func (k *SSHKey) Trust() spec.TrustKey { return spec.TrustKey{Name: k.name, SSH: k.Public} }

// Name is the key's name.
func (k *SSHKey) Name() string { return k.name }

// Signer gives the private key.
func (k *SSHKey) Signer() ssh.Signer {
	k.env.tb.Helper()
	pem, err := os.ReadFile(k.File)
	if err != nil {
		k.env.tb.Fatalf("gittest: %v", err)
	}
	s, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		k.env.tb.Fatalf("gittest: %v", err)
	}
	return s
}

// Sign makes an armoured signature with `ssh-keygen -Y sign`.
func (k *SSHKey) Sign(namespace string, message []byte) string {
	k.env.tb.Helper()
	return k.env.Run(k.env.home, message, "ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", k.File)
}

// SignCommit signs the bytes of an unsigned commit object and gives the signed object, in any namespace.
func (k *SSHKey) SignCommit(namespace string, unsigned []byte) []byte {
	k.env.tb.Helper()
	armoured, err := signer.SSHSign(k.Signer(), namespace, unsigned)
	if err != nil {
		armoured = []byte(k.Sign(namespace, unsigned)) // a key that signer refuses to use
	}
	return WithSignature(unsigned, string(armoured))
}

// WithSignature puts a gpgsig header into the bytes of an unsigned commit object.
func WithSignature(unsigned []byte, armoured string) []byte {
	header, message, _ := strings.Cut(string(unsigned), "\n\n")
	folded := strings.ReplaceAll(strings.TrimRight(armoured, "\n"), "\n", "\n ")
	return []byte(header + "\ngpgsig " + folded + "\n\n" + message)
}

// PGPKey is an OpenPGP key in the environment's own keyring.
type PGPKey struct {
	env         *Env
	name        string
	Fingerprint string
	Public      string // ASCII-armoured
}

// PGPKey makes an OpenPGP key with gpg; algorithm is e.g. "ed25519" or "rsa3072".
func (e *Env) PGPKey(name, algorithm string) *PGPKey {
	e.tb.Helper()
	uid := name + " <" + name + "@example.org>"
	e.Run(e.home, nil, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", uid, algorithm, "sign", "never")
	list := e.Run(e.home, nil, "gpg", "--batch", "--with-colons", "--list-keys", uid)
	k := &PGPKey{env: e, name: name, Public: e.Run(e.home, nil, "gpg", "--batch", "--armor", "--export", uid)}
	for line := range strings.SplitSeq(list, "\n") {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" && k.Fingerprint == "" {
			k.Fingerprint = fields[9]
		}
	}
	return k
}

func (k *PGPKey) gitConfig() []string {
	return []string{"-c", "gpg.format=openpgp", "-c", "user.signingkey=" + k.Fingerprint}
}

// Trust implements Key.
func (k *PGPKey) Trust() spec.TrustKey { return spec.TrustKey{Name: k.name, OpenPGP: k.Public} }

// CloseGPG ends the gpg-agent of this environment; a test that makes PGP keys calls it when done.
func (e *Env) CloseGPG() {
	// There may be no agent to end; then there is nothing to do.
	_, _ = e.Try(e.home, nil, "gpgconf", "--kill", "gpg-agent")
}
