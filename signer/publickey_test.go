package signer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"
)

func TestOneKeyOneID(t *testing.T) {
	k := testKey("x")
	signer, err := ssh.NewSignerFromKey(ed25519.PrivateKey(k.key))
	if err != nil {
		t.Fatal(err)
	}
	asSSH := sshPublic(t, signer)
	if asSSH.ID() != k.Public().ID() {
		t.Error("an Ed25519 key has another ID when it comes as an SSH key")
	}
	commented := must(ParseSSHKey(asSSH.Text() + " ada@laptop\n"))(t)
	if commented.ID() != asSSH.ID() || commented.Text() != asSSH.Text() {
		t.Error("a comment changes the key")
	}
	raw := k.Raw()
	fido := must(SSHKey(must(ssh.ParsePublicKey(ssh.Marshal(struct {
		Type, Key, App string
	}{ssh.KeyAlgoSKED25519, string(raw[:]), "ssh:work"})))(t)))(t)
	if fido.ID() != asSSH.ID() {
		t.Error("the FIDO application makes another key of one point")
	}

	n := must(rsa.GenerateKey(rand.Reader, 2048))(t).N
	ids := map[string]bool{}
	for _, e := range []int{3, 65537} {
		ids[must(SSHKey(must(ssh.NewPublicKey(&rsa.PublicKey{N: n, E: e}))(t)))(t).ID()] = true
	}
	if len(ids) != 1 {
		t.Error("the RSA exponent makes another key of one modulus")
	}
	if asSSH.ID() == must(SSHKey(ecdsaSSH(t, elliptic.P256()).PublicKey()))(t).ID() {
		t.Error("different keys share an ID")
	}
}

func TestPublicKeyTextRoundTrip(t *testing.T) {
	keys := []PublicKey{
		testKey("x").Public(), sshPublic(t, testSSH("x")), sshPublic(t, ecdsaSSH(t, elliptic.P521())),
		gpgKey(t, "alice"), gpgKey(t, "rita"),
	}
	for _, k := range keys {
		again := must(ParsePublicKey(k.Kind(), k.Text()))(t)
		if again.ID() != k.ID() || again.Text() != k.Text() || again.Fingerprint() != k.Fingerprint() {
			t.Errorf("%s does not survive its text form", k)
		}
	}
}

func TestWeakEd25519KeysAreRefused(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(y *big.Int, sign byte) [32]byte {
		var out [32]byte
		y.FillBytes(out[:])
		for i, j := 0, 31; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
		out[31] |= sign << 7
		return out
	}
	order8 := hex32(t, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
	order8b := hex32(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	weak := map[string][32]byte{
		"order 1":             encode(big.NewInt(1), 0),
		"order 2":             encode(new(big.Int).Sub(p, big.NewInt(1)), 0),
		"order 4":             encode(big.NewInt(0), 0),
		"order 4, other sign": encode(big.NewInt(0), 1),
		"order 8":             order8,
		"order 8, other":      order8b,
		"y = p":               encode(p, 0),
		"y = p + 1":           encode(new(big.Int).Add(p, big.NewInt(1)), 0),
		"y = 2^255 - 1":       encode(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(1)), 0),
		"off the curve":       encode(big.NewInt(2), 0),
	}
	for name, raw := range weak {
		if _, err := Ed25519Key(raw); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantErr(t, err, ErrWeakKey)
		}
	}
	for i := range 50 {
		if _, err := Ed25519Key(testKey(string(rune('a' + i))).Raw()); err != nil {
			t.Errorf("honest key %d: %v", i, err)
		}
	}
}

func hex32(t *testing.T, s string) [32]byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		t.Fatal(s, err)
	}
	return [32]byte(b)
}

func TestSSHKeyAllowList(t *testing.T) {
	for _, bits := range []int{1024, 2047, 2048} {
		_, err := SSHKey(rsaSSH(t, bits).PublicKey())
		if bits < MinRSABits {
			wantErr(t, err, ErrWeakKey)
		} else if err != nil {
			t.Errorf("RSA %d: %v", bits, err)
		}
	}
	huge := &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8200), big.NewInt(1)), E: 65537}
	_, err := SSHKey(must(ssh.NewPublicKey(huge))(t))
	wantErr(t, err, ErrWeakKey)

	line := sshPublic(t, testSSH("x")).Text()
	for name, text := range map[string]string{
		"empty":       "",
		"options":     `command="x" ` + line,
		"two lines":   line + "\n" + line,
		"no key":      "ssh-ed25519",
		"bad base64":  "ssh-ed25519 !!!!",
		"type lies":   strings.Replace(line, "ssh-ed25519", "ssh-rsa", 1),
		"private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
		"too long":    line + " " + strings.Repeat("c", MaxKeyBytes),
	} {
		if k, err := ParseSSHKey(text); err == nil {
			t.Errorf("%s: accepted as %s", name, k)
		}
	}
	cert := &ssh.Certificate{Key: testSSH("x").PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, testSSH("ca")); err != nil {
		t.Fatal(err)
	}
	_, err = SSHKey(cert)
	wantErr(t, err, ErrWeakKey)
}

func TestParsePublicKeyRefuses(t *testing.T) {
	good := testKey("x").Public().Text()
	for name, c := range map[string]struct {
		kind Kind
		text string
	}{
		"unknown kind":  {"x509", good},
		"no kind":       {"", good},
		"short":         {KindEd25519, "AAAA"},
		"no padding":    {KindEd25519, strings.TrimRight(good, "=")},
		"space":         {KindEd25519, good + " "},
		"hex":           {KindEd25519, strings.Repeat("ab", 32)},
		"huge":          {KindEd25519, strings.Repeat("A", MaxKeyBytes+1)},
		"openpgp noise": {KindOpenPGP, base64.StdEncoding.EncodeToString([]byte("noise"))},
		"openpgp empty": {KindOpenPGP, ""},
	} {
		if _, err := ParsePublicKey(c.kind, c.text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPrivateKeyFile(t *testing.T) {
	k := testKey("x")
	text := must(MarshalPrivate(k))(t)
	if got := must(ParsePrivate(text))(t); got.Raw() != k.Raw() {
		t.Error("another key came back")
	}
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	der, err := marshalPKCS8(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParsePrivate(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	wantErr(t, err, ErrWeakKey)
	for name, bad := range map[string][]byte{
		"empty":      nil,
		"two blocks": append(bytes.Clone(text), text...),
		"text first": append([]byte("note\n"), text...),
		"text after": append(bytes.Clone(text), "note"...),
		"other type": bytes.ReplaceAll(text, []byte("PRIVATE KEY"), []byte("EC PRIVATE KEY")),
		"headers":    bytes.Replace(text, []byte("KEY-----\n"), []byte("KEY-----\nProc-Type: 4\n\n"), 1),
		"huge":       append(bytes.Clone(text), bytes.Repeat([]byte("\n"), MaxPrivateKeyBytes)...),
	} {
		if _, err := ParsePrivate(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := MarshalPrivate(PrivateKey{}); err == nil {
		t.Error("an unset key was marshalled")
	}
}

// gpgKey reads a key of testdata/gpg.
func gpgKey(t testing.TB, name string) PublicKey {
	t.Helper()
	return must(ParseOpenPGPKey(string(readGPG(t, name+".pub.asc"))))(t)
}

func TestOpenPGPKeyAllowList(t *testing.T) {
	for _, name := range []string{"alice", "rita", "nina"} {
		if _, err := ParseOpenPGPKey(string(readGPG(t, name+".pub.asc"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"weak", "dora", "koblitz", "nina-revoked"} {
		_, err := ParseOpenPGPKey(string(readGPG(t, name+".pub.asc")))
		wantErr(t, err, ErrWeakKey)
	}
	alice, nina := string(readGPG(t, "alice.pub.asc")), string(readGPG(t, "nina.pub.asc"))
	for name, text := range map[string]string{
		"two blocks":  alice + nina,
		"text before": "note\n" + alice,
		"text after":  alice + "note",
		"a signature": string(readGPG(t, "alice.sig.asc")),
		"two keys":    armourKeys(t, gpgKey(t, "alice"), gpgKey(t, "nina")),
		"empty":       "",
	} {
		_, err := ParseOpenPGPKey(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantErr(t, err, ErrFormat)
		}
	}
	e := must(openpgp.NewEntity("p", "", "p@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))(t)
	var private bytes.Buffer
	if err := e.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	_, err := newOpenPGP(private.Bytes())
	wantErr(t, err, ErrFormat)
}

func armourKeys(t *testing.T, keys ...PublicKey) string {
	t.Helper()
	var out bytes.Buffer
	w := must(armor.Encode(&out, openpgp.PublicKeyType, nil))(t)
	for _, k := range keys {
		if _, err := w.Write(must(base64.StdEncoding.DecodeString(k.Text()))(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
