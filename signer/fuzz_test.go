package signer

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/apex-network/apex/spec/peermap"
)

func FuzzParseEnvelope(f *testing.F) {
	g := newGeneration(f, 1, 5, peermap.Digest{}, nil)
	f.Add(g.env)
	f.Add(g.stampEnv)
	f.Add(signRoot(f, testRoot(f), "ada", "bob"))
	f.Add([]byte(`{"payloadType":"t","payload":"","signatures":[]}`))
	f.Add([]byte(`{"payloadType":"t","payload":null,"signatures":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b, 1<<16)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	f.Add(must(testRoot(f).Encode())(f))
	f.Add(must(peopleRoot(f, map[string]PublicKey{"alice": gpgKey(f, "alice"), "rita": gpgKey(f, "rita")}).Encode())(f))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRoot(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
		if r.Digest() != peermap.DigestOf(b) {
			t.Error("the digest is not that of the bytes")
		}
		ids := map[string]bool{}
		for _, name := range r.Root.Keys {
			k, ok := r.Key(name)
			if !ok || ids[k.ID()] {
				t.Errorf("root key %s is unknown or counts twice", name)
			}
			ids[k.ID()] = true
		}
		if r.Root.Threshold < 1 || r.Root.Threshold > len(ids) {
			t.Errorf("threshold %d of %d", r.Root.Threshold, len(ids))
		}
	})
}

// FuzzState has no key, so whatever it stores must be a prefix of what it was seeded with: it can lose trust, never gain it.
func FuzzState(f *testing.F) {
	s, _ := current(f)
	f.Add(must(s.MarshalJSON())(f))
	f.Add(must(rooted(f).MarshalJSON())(f))
	f.Add(must(NewState("acme", "prod", peermap.Digest{1}).MarshalJSON())(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseState(b)
		if err != nil {
			return
		}
		again, err := got.MarshalJSON()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
		got.Freshness(now)
		if !got.ManifestDigest().IsZero() && got.ManifestDigest() != s.ManifestDigest() && got.Pin() == s.Pin() {
			t.Error("a manifest that nobody signed is trusted")
		}
	})
}

func FuzzSSHSIG(f *testing.F) {
	msg := []byte("message")
	ada := testSSH("ada")
	key := sshPublic(f, ada)
	good := must(SSHSign(ada, NamespaceGit, msg))(f)
	blob := must(unarmorSSH(good))(f)
	f.Add(good, blob)
	f.Add([]byte(sshBegin+"\n"+sshEnd), []byte("SSHSIG"))
	f.Fuzz(func(t *testing.T, armoured, binary []byte) {
		if SSHVerify(key, NamespaceGit, msg, armoured) == nil {
			got, err := unarmorSSH(armoured)
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%q verifies", armoured)
			}
		}
		if verifySSHBlob(key, NamespaceGit, msg, binary) == nil && !bytes.Equal(binary, blob) {
			t.Errorf("%x verifies", binary)
		}
	})
}

func FuzzOpenPGP(f *testing.F) {
	commit := readGPG(f, "commit.txt")
	alice := gpgKey(f, "alice")
	f.Add(readGPG(f, "alice.sig.asc"), readGPG(f, "alice.pub.asc"))
	f.Add(readGPG(f, "rita-sha1.sig.asc"), readGPG(f, "rita.pub.asc"))
	f.Add(readGPG(f, "alice-and-nina.sig.asc"), readGPG(f, "dora.pub.asc"))
	f.Add([]byte(pgpBegin+"\n\n"+pgpEnd), []byte(pgpKey0+"\n\n"+pgpKey1))
	f.Fuzz(func(t *testing.T, sig, pub []byte) {
		if VerifyCommit(alice, append([]byte("x"), commit...), sig) == nil {
			t.Errorf("%q verifies over what alice never signed", sig)
		}
		if k, err := ParseOpenPGPKey(string(pub)); err == nil {
			again, err := ParsePublicKey(KindOpenPGP, k.Text())
			if err != nil || again.ID() != k.ID() {
				t.Errorf("%s does not survive its text form: %v", k, err)
			}
		}
	})
}

func FuzzSSHKey(f *testing.F) {
	f.Add(sshPublic(f, testSSH("ada")).Text())
	f.Add("ssh-rsa " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x07ssh-rsa")))
	f.Fuzz(func(t *testing.T, line string) {
		k, err := ParseSSHKey(line)
		if err != nil {
			return
		}
		again, err := ParseSSHKey(k.Text())
		if err != nil || again.ID() != k.ID() || again.Text() != k.Text() {
			t.Errorf("%q: %v", line, err)
		}
	})
}
