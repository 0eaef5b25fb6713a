package signer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/x509"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

func readGPG(t testing.TB, name string) []byte {
	t.Helper()
	return must(os.ReadFile(filepath.Join("testdata", "gpg", name)))(t)
}

func marshalPKCS8(key any) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }

// peopleRoot lists these keys as maintainers, named as in the map.
func peopleRoot(t testing.TB, keys map[string]PublicKey) *Root {
	t.Helper()
	r := testRoot(t).Clone()
	r.Maintainers = nil
	rule := MaintainerRule{Name: "people", Paths: []string{"**"}}
	for name, k := range keys {
		r.Keys = append(r.Keys, NewRootKey(name, k))
		rule.Keys = append(rule.Keys, name)
	}
	r.Maintainers = []MaintainerRule{rule}
	return must(r.Canonical())(t)
}

// Every SSH key type that OpenSSH can make without hardware, signed by the real ssh-keygen.
func TestRealSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("ssh-keygen", args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
		}
	}
	types := map[string][]string{
		"ed25519": {"-t", "ed25519"}, "p256": {"-t", "ecdsa", "-b", "256"}, "p384": {"-t", "ecdsa", "-b", "384"},
		"p521": {"-t", "ecdsa", "-b", "521"}, "rsa2048": {"-t", "rsa", "-b", "2048"}, "rsa1024": {"-t", "rsa", "-b", "1024"},
	}
	msg := []byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\nmessage\n")
	for name, args := range types {
		keyFile, msgFile := filepath.Join(dir, name), filepath.Join(dir, name+".msg")
		run(append([]string{"-q", "-N", "", "-C", name, "-f", keyFile}, args...)...)
		if err := os.WriteFile(msgFile, msg, 0o600); err != nil {
			t.Fatal(err)
		}
		sign := func(namespace string, more ...string) []byte {
			t.Helper()
			_ = os.Remove(msgFile + ".sig")
			run(append(append([]string{"-q", "-Y", "sign", "-n", namespace, "-f", keyFile}, more...), msgFile)...)
			return must(os.ReadFile(msgFile + ".sig"))(t)
		}
		line := string(must(os.ReadFile(keyFile + ".pub"))(t))
		key, err := ParseSSHKey(line)
		if name == "rsa1024" {
			wantErr(t, err, ErrWeakKey)
			_, err = testRoot(t).VerifyCommit(msg, sign("git"))
			wantErr(t, err, ErrWeakKey)
			continue
		}
		if err != nil {
			t.Fatal(name, err)
		}
		r := peopleRoot(t, map[string]PublicKey{name: key})
		for _, hash := range []string{"sha512", "sha256"} {
			who, err := r.VerifyCommit(msg, sign("git", "-O", "hashalg="+hash))
			if err != nil || who.Name != name || who.Key.ID() != key.ID() {
				t.Errorf("%s with %s: signed by %q, %v", name, hash, who.Name, err)
			}
		}
		_, err = r.VerifyCommit(append(bytes.Clone(msg), ' '), sign("git"))
		wantErr(t, err, ErrSignature)
		_, err = r.VerifyCommit(msg, sign("file"))
		wantErr(t, err, ErrSignature)
		if err := SSHVerify(key, "file", msg, sign("file")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An offline root key signs the exported PAE bytes with nothing but OpenSSH.
func TestOfflineRootSignature(t *testing.T) {
	dir := t.TempDir()
	keyFile, paeFile := filepath.Join(dir, "key"), filepath.Join(dir, "root.pae")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
		}
	}
	run("-q", "-t", "ed25519", "-N", "", "-f", keyFile)
	r := testRoot(t).Clone()
	r.Keys = append(r.Keys, NewRootKey("offline", must(ParseSSHKey(string(must(os.ReadFile(keyFile+".pub"))(t))))(t)))
	r.Root = Role{Keys: []string{"ada", "offline"}, Threshold: 2}
	e := NewEnvelope(RootType, must(r.Encode())(t))
	if err := os.WriteFile(paeFile, e.PAE(), 0o600); err != nil {
		t.Fatal(err)
	}
	run("-q", "-Y", "sign", "-n", NamespaceRoot, "-f", keyFile, paeFile)
	signed := must(must(e.AttachSSH(must(os.ReadFile(paeFile + ".sig"))(t)))(t).AddSSH(testSSH("ada")))(t)
	got, err := VerifyFirstRoot(must(signed.Encode())(t), r.Digest(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != r.Digest() {
		t.Error("another root came back")
	}
	run("-q", "-Y", "sign", "-n", NamespaceGit, "-f", keyFile, keyFile+".pub")
	_, err = e.AttachSSH(must(os.ReadFile(keyFile + ".pub.sig"))(t))
	wantErr(t, err, ErrSignature)
}

func TestSSHSignVerify(t *testing.T) {
	msg := []byte("message")
	for _, s := range []ssh.Signer{testSSH("x"), ecdsaSSH(t, elliptic.P256()), ecdsaSSH(t, elliptic.P384()), rsaSSH(t, 2048)} {
		key := sshPublic(t, s)
		sig := must(SSHSign(s, NamespaceApply, msg))(t)
		if err := SSHVerify(key, NamespaceApply, msg, sig); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		wantErr(t, SSHVerify(key, NamespaceGit, msg, sig), ErrSignature)
		wantErr(t, SSHVerify(key, NamespaceApply, []byte("other"), sig), ErrSignature)
		wantErr(t, SSHVerify(sshPublic(t, testSSH("y")), NamespaceApply, msg, sig), ErrUnknownKey)
		wantErr(t, SSHVerify(testKey("x").Public(), NamespaceApply, msg, sig), ErrSignature)
	}
	if _, err := SSHSign(rsaSSH(t, 1024), NamespaceGit, msg); err == nil {
		t.Error("signed with RSA of 1024 bits")
	}
}

func TestSSHArmourIsExactlyOneBlock(t *testing.T) {
	msg := []byte("message")
	s := testSSH("x")
	key, good := sshPublic(t, s), string(must(SSHSign(s, NamespaceGit, msg))(t))
	other := string(must(SSHSign(testSSH("y"), NamespaceGit, msg))(t))
	for name, text := range map[string]string{"plain": good, "trailing newlines": good + "\n\n", "no newline": strings.TrimSpace(good)} {
		if err := SSHVerify(key, NamespaceGit, msg, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"empty":            "",
		"two blocks":       good + good,
		"foreign first":    other + good,
		"foreign second":   good + other,
		"text before":      "x\n" + good,
		"text after":       good + "x",
		"headers":          strings.Replace(good, "-----\n", "-----\nComment: x\n\n", 1),
		"other armour":     strings.ReplaceAll(good, "SSH SIGNATURE", "PGP SIGNATURE"),
		"block in a block": strings.Replace(good, "\n", "\n"+other, 1),
		"no end":           strings.TrimSuffix(strings.TrimSpace(good), "-----"),
		"bad base64":       strings.Replace(good, "U1NIU0lH", "U1NI*0lH", 1),
		"empty block":      sshBegin + "\n" + sshEnd + "\n",
		"too long":         sshBegin + "\n" + strings.Repeat("A", MaxSignatureBytes) + "\n" + sshEnd,
	} {
		if err := SSHVerify(key, NamespaceGit, msg, []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// alterBlob makes an armoured signature from a good one whose parts were changed.
func alterBlob(t *testing.T, s ssh.Signer, msg []byte, change func(*sshsig.Signature)) []byte {
	t.Helper()
	sig := must(sshSign(s, NamespaceGit, msg))(t)
	change(sig)
	return sshsig.Armor(sig)
}

func TestSSHSignatureParts(t *testing.T) {
	msg := []byte("message")
	s := testSSH("x")
	key := sshPublic(t, s)
	for name, change := range map[string]func(*sshsig.Signature){
		"version 2":        func(g *sshsig.Signature) { g.Version = 2 },
		"hash sha1":        func(g *sshsig.Signature) { g.HashAlgorithm = "sha1" },
		"hash swapped":     func(g *sshsig.Signature) { g.HashAlgorithm = sshsig.HashSHA256 },
		"empty namespace":  func(g *sshsig.Signature) { g.Namespace = "" },
		"namespace prefix": func(g *sshsig.Signature) { g.Namespace = "git\x00" },
		"trailing bytes":   func(g *sshsig.Signature) { g.Signature.Rest = []byte{1} },
		"other format":     func(g *sshsig.Signature) { g.Signature.Format = ssh.KeyAlgoECDSA256 },
		"cut signature":    func(g *sshsig.Signature) { g.Signature.Blob = g.Signature.Blob[:63] },
		"empty signature":  func(g *sshsig.Signature) { g.Signature.Blob = nil },
	} {
		if err := SSHVerify(key, NamespaceGit, msg, alterBlob(t, s, msg, change)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	blob := must(unarmorSSH(must(SSHSign(s, NamespaceGit, msg))(t)))(t)
	longer := pem.EncodeToMemory(&pem.Block{Type: sshsig.PEMType, Bytes: append(blob, 0)})
	if err := SSHVerify(key, NamespaceGit, msg, longer); err == nil {
		t.Error("a byte after the blob went unread")
	}
}

// fidoSign makes the signature of a security key in software (OpenSSH, PROTOCOL.u2f).
func fidoSign(t *testing.T, key ed25519.PrivateKey, app string, msg []byte, flags byte) (PublicKey, []byte) {
	t.Helper()
	public := must(ssh.ParsePublicKey(ssh.Marshal(struct{ Type, Key, App string }{
		ssh.KeyAlgoSKED25519, string(key.Public().(ed25519.PublicKey)), app,
	})))(t)
	sum := sha512.Sum512(msg)
	signed := append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Sum string }{
		NamespaceGit, "", "sha512", string(sum[:]),
	})...)
	appSum, signedSum := sha256Sum([]byte(app)), sha256Sum(signed)
	data := append(append(append([]byte{}, appSum...), flags, 0, 0, 0, 7), signedSum...)
	sig := &sshsig.Signature{
		Version: 1, PublicKey: public, Namespace: NamespaceGit, HashAlgorithm: sshsig.HashSHA512,
		Signature: &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(key, data), Rest: []byte{flags, 0, 0, 0, 7}},
	}
	return must(SSHKey(public))(t), sshsig.Armor(sig)
}

func TestFIDOKeysNeedATouch(t *testing.T) {
	msg := []byte("message")
	private := ed25519.PrivateKey(testKey("token").key)
	key, sig := fidoSign(t, private, "ssh:", msg, 1)
	if err := SSHVerify(key, NamespaceGit, msg, sig); err != nil {
		t.Error(err)
	}
	_, untouched := fidoSign(t, private, "ssh:", msg, 0)
	wantErr(t, SSHVerify(key, NamespaceGit, msg, untouched), ErrSignature)
	_, otherApp := fidoSign(t, private, "ssh:other", msg, 1)
	wantErr(t, SSHVerify(key, NamespaceGit, msg, otherApp), ErrUnknownKey)
}

func TestVerifyCommitOpenPGP(t *testing.T) {
	commit := readGPG(t, "commit.txt")
	r := peopleRoot(t, map[string]PublicKey{"alice": gpgKey(t, "alice"), "rita": gpgKey(t, "rita"), "nina": gpgKey(t, "nina")})
	for _, name := range []string{"alice", "rita", "nina"} {
		sig := readGPG(t, name+".sig.asc")
		who, err := r.VerifyCommit(commit, sig)
		if err != nil || who.Name != name {
			t.Errorf("%s: signed by %q, %v", name, who.Name, err)
		}
		if err := VerifyCommit(gpgKey(t, name), commit, sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err = r.VerifyCommit(append([]byte("x"), commit...), sig)
		wantErr(t, err, ErrSignature)
		_, err = testRoot(t).VerifyCommit(commit, sig)
		wantErr(t, err, ErrUnknownKey)
	}
	wantErr(t, VerifyCommit(gpgKey(t, "nina"), commit, readGPG(t, "alice.sig.asc")), ErrUnknownKey)
	wantErr(t, VerifyCommit(sshPublic(t, testSSH("x")), commit, readGPG(t, "alice.sig.asc")), ErrFormat)
	for _, name := range []string{"rita-sha1", "alice-expiring", "alice-text", "alice-and-nina"} {
		_, err := r.VerifyCommit(commit, readGPG(t, name+".sig.asc"))
		wantErr(t, err, ErrSignature)
	}
	alice, nina := string(readGPG(t, "alice.sig.asc")), string(readGPG(t, "nina.sig.asc"))
	for name, text := range map[string]string{
		"two blocks":     alice + nina,
		"text before":    "x\n" + alice,
		"text after":     alice + "x",
		"a key":          string(readGPG(t, "alice.pub.asc")),
		"S/MIME":         strings.ReplaceAll(alice, "PGP SIGNATURE", "SIGNED MESSAGE"),
		"empty":          "",
		"not armoured":   "hello",
		"long":           alice + strings.Repeat("\n", MaxSignatureBytes),
		"checksum wrong": flipChecksum(alice),
	} {
		if who, err := r.VerifyCommit(commit, []byte(text)); err == nil {
			t.Errorf("%s: accepted as %s", name, who.Name)
		}
	}
}

// flipChecksum changes the last base64 line before the armour's checksum.
func flipChecksum(armoured string) string {
	i := strings.LastIndex(armoured, "\n=") - 5
	c := byte('A')
	if armoured[i] == c {
		c = 'B'
	}
	return armoured[:i] + string(c) + armoured[i+1:]
}

// A subkey of an OpenPGP key that is another listed key would let one person count as two.
func TestSubkeyThatIsAnotherKey(t *testing.T) {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now }}
	e := must(openpgp.NewEntity("p", "", "p@example.com", config))(t)
	if err := e.AddSigningSubkey(config); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := e.Serialize(&buf); err != nil {
		t.Fatal(err)
	}
	key := must(newOpenPGP(buf.Bytes()))(t)
	if len(key.ids) != 2 || key.ids[0] == key.ids[1] {
		t.Fatalf("ids %v, want primary and subkey", key.ids)
	}
	r := testRoot(t).Clone()
	twin := key
	twin.ids = []string{key.ids[1]}
	c := &rootChecker{root: r, keys: map[string]PublicKey{}, names: map[string]string{key.ids[1]: "other"}}
	r.Keys = []RootKey{NewRootKey("p", key)}
	c.listKeys()
	if len(c.errs) != 1 || !strings.Contains(c.errs[0].Error(), "one key") {
		t.Errorf("errors %v, want one that calls them one key", c.errs)
	}
}

func TestVerifyRequest(t *testing.T) {
	r := testRoot(t)
	msg := []byte(`{"commit":"…"}`)
	sign := func(name, namespace string) []byte { return must(SSHSign(testSSH(name), namespace, msg))(t) }
	who, err := r.VerifyRequest(NamespaceApply, msg, sign("ada", NamespaceApply), RoleAppliers)
	if err != nil || who.Name != "ada" {
		t.Errorf("signed by %q, %v", who.Name, err)
	}
	_, err = r.VerifyRequest(NamespaceApply, msg, sign("bob", NamespaceApply), RoleAppliers)
	wantErr(t, err, ErrUnknownKey) // listed, but no applier
	if _, err = r.VerifyRequest(NamespaceApply, msg, sign("bob", NamespaceApply), RoleAppliers, RoleRoot); err != nil {
		t.Error(err)
	}
	_, err = r.VerifyRequest(NamespaceApply, msg, sign("mallory", NamespaceApply), RoleAppliers)
	wantErr(t, err, ErrUnknownKey)
	_, err = r.VerifyRequest(NamespaceApply, msg, sign("ada", NamespaceGit), RoleAppliers)
	wantErr(t, err, ErrSignature)
	_, err = r.VerifyRequest(NamespaceApply, append(msg, ' '), sign("ada", NamespaceApply), RoleAppliers)
	wantErr(t, err, ErrSignature)
}

func TestSSHKeysSignTrustRootsOnly(t *testing.T) {
	e := NewEnvelope(RootType, []byte("x"))
	armoured := must(SSHSign(testSSH("ada"), NamespaceRoot, e.PAE()))(t)
	if got := must(e.AttachSSH(armoured))(t); got.Signatures[0].KeyID != sshPublic(t, testSSH("ada")).ID() {
		t.Error("the signature stands under another id")
	}
	_, err := NewEnvelope(RootType, []byte("y")).AttachSSH(armoured)
	wantErr(t, err, ErrSignature)
	_, err = e.AttachSSH(append(armoured, armoured...))
	wantErr(t, err, ErrFormat)
	_, err = e.AddSSH(rsaSSH(t, 1024))
	wantErr(t, err, ErrWeakKey)
	other := NewEnvelope("application/other", []byte("x"))
	_, err = other.AddSSH(testSSH("ada"))
	wantErr(t, err, ErrType)
	_, err = other.AttachSSH(armoured)
	wantErr(t, err, ErrType)
}

func TestUnsetKeysDoNotSign(t *testing.T) {
	if _, err := SignEd25519("t", nil, PrivateKey{}); err == nil {
		t.Error("an unset key signed")
	}
	if _, err := GenerateKey(bytes.NewReader(nil)); err == nil {
		t.Error("a key without randomness")
	}
}

func TestRandomSignaturesDoNotVerify(t *testing.T) {
	key, msg := testKey("x").Public(), []byte("message")
	sig := make([]byte, 64)
	for range 20 {
		if _, err := rand.Read(sig); err != nil {
			t.Fatal(err)
		}
		wantErr(t, key.verifyPAE(msg, sig), ErrSignature)
	}
	wantErr(t, key.verifyPAE(msg, nil), ErrSignature)
	wantErr(t, PublicKey{}.verifyPAE(msg, sig), ErrSignature)
}
