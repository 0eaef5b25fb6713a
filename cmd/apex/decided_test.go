package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// registry is a controller that knows enrolments and nothing else.
type registry struct {
	list protocol.EnrolmentList
	key  signer.PublicKey

	mu      sync.Mutex
	decided []protocol.Decision
	refuse  *protocol.Problem
}

func (c *registry) handler(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	verified := func(r protocol.SignedRequest) {
		if err := signer.SSHVerify(c.key, protocol.EnrolNamespace, r.Payload, []byte(r.Signature)); err != nil {
			t.Errorf("signature: %v", err)
		}
	}
	mux.HandleFunc(protocol.PatternEnrolments, func(w http.ResponseWriter, r *http.Request) {
		req, err := protocol.GetRequest(r.Header)
		if err != nil {
			t.Error(err)
		}
		verified(req)
		if _, err := protocol.ParseEnrolQuery(req.Payload, "acme", time.Now()); err != nil {
			t.Error(err)
		}
		if c.refuse != nil {
			c.refuse.Write(w)
			return
		}
		body, err := protocol.Encode(c.list)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc(protocol.PatternDecide, func(w http.ResponseWriter, r *http.Request) {
		body, err := protocol.ReadAll(r.Body, protocol.MaxApplyBytes)
		if err != nil {
			t.Error(err)
		}
		var req protocol.SignedRequest
		if err := protocol.Decode(body, protocol.MaxApplyBytes, &req); err != nil {
			t.Error(err)
		}
		verified(req)
		d, err := protocol.ParseDecision(req.Payload, "acme", time.Now())
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.decided = append(c.decided, d)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// personKey writes an SSH key and gives its file and its public half.
func personKey(t *testing.T) (string, signer.PublicKey) {
	t.Helper()
	raw, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signer.SSHKey(line)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "alice")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "alice")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, public
}

const officeNetwork = `apiVersion: apex/v1alpha1
kind: Network
metadata:
  name: acme
spec:
  issuers:
    - name: corp
      url: https://login.example.com
      clientID: apex
---
apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: office
spec:
  ranges: [10.0.0.0/16]
  dynamic: [10.0.128.0/17]

  # who may join
  members:
    - name: staff
      issuer: corp
      groups: [staff] # people

---
apiVersion: apex/v1alpha1
kind: Policy
metadata:
  name: base
  zone: office
spec:
  allow:
    - from:
        - groups: [staff]
      to:
        - any: true
      ports: [icmp]
`

// office is a registry with one member and two who wait, its URL, a clone of its network and a key.
func office(t *testing.T) (c *registry, flags []string, dir string) {
	t.Helper()
	b := binding.Binding{Type: binding.Type, Network: "acme", Zone: "office", Node: "desk",
		Identity: binding.Identity{Issuer: "corp", URL: "https://login.example.com", Subject: "1", Username: "bob",
			Groups: []string{"staff"}, Claims: []binding.Claim{}},
		PublicKey: peermap.Key{9: 1}, IdentityKey: peermap.Key{9: 2}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.128.7")},
		Labels: []binding.Pair{}, Routes: []netip.Prefix{}, Rule: binding.Rule{Name: "staff", File: "network.yaml", Line: 20},
		Commit: strings.Repeat("a", 40), Issued: time.Now().Add(-time.Hour).Unix(), Expires: time.Now().Add(time.Hour).Unix(),
		Evidence: peermap.DigestOf([]byte("evidence"))}
	payload, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	wait := func(node string, n byte) protocol.Waiting {
		public, identity := peermap.Key{9: n}, peermap.Key{9: n + 1}
		return protocol.Waiting{ID: protocol.WaitingID("office", node, public, identity), Zone: "office", Node: node, PublicKey: public,
			IdentityKey: identity, Issuer: "corp", Subject: "2", Username: "alice", Groups: []string{"staff"}, Rule: "staff", Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("fd00:7::/64")},
			Relay: true, Since: time.Now()}
	}
	c = &registry{list: protocol.EnrolmentList{Bindings: [][]byte{payload}, Waiting: []protocol.Waiting{wait("laptop", 11), wait("phone", 21)}}}
	key, public := personKey(t)
	c.key = public
	server := httptest.NewServer(c.handler(t))
	t.Cleanup(server.Close)
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "network.yaml"), []byte(officeNetwork), 0o644); err != nil {
		t.Fatal(err)
	}
	return c, []string{"--controller", server.URL, "--key", key}, dir
}

func TestEnrolList(t *testing.T) {
	c, flags, dir := office(t)
	digest := peermap.DigestOf(c.list.Bindings[0]).String()
	out, talk, code := run(t, "", append([]string{"enrol", "list", "-C", dir}, flags...)...)
	if code != cli.OK || !strings.Contains(out, digest) || !strings.Contains(out, "corp:bob") || !strings.Contains(out, c.list.Waiting[1].ID) {
		t.Errorf("exit code %d: %s\n%s", code, out, talk)
	}
	if !strings.Contains(out, "192.168.7.0/24, fd00:7::/64  true") {
		t.Errorf("a maintainer does not see what is asked for:\n%s", out)
	}
	out, _, code = run(t, "", append([]string{"enrol", "list", "--network", "acme", "--zone", "other", "-o", "json"}, flags...)...)
	if code != cli.OK || out != "{\n  \"bindings\": [],\n  \"waiting\": []\n}\n" {
		t.Errorf("exit code %d: %s", code, out)
	}
	c.refuse = protocol.NewProblem(http.StatusForbidden, protocol.CodeSignature, "not a maintainer")
	if _, talk, code := run(t, "", append([]string{"enrol", "list", "-C", dir}, flags...)...); code != cli.Trust {
		t.Errorf("exit code %d: %s", code, talk)
	}
}

func TestEnrolDecide(t *testing.T) {
	c, flags, dir := office(t)
	if _, talk, code := run(t, "", append([]string{"enrol", "approve", "laptop", "-C", dir}, flags...)...); code != cli.OK || !strings.Contains(talk, "approved laptop of corp:alice") {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if _, talk, code := run(t, "", append([]string{"enrol", "deny", c.list.Waiting[1].ID[:6], "-C", dir}, flags...)...); code != cli.OK || !strings.Contains(talk, "denied phone") {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if len(c.decided) != 2 || !c.decided[0].Approve || c.decided[0].PublicKey != c.list.Waiting[0].PublicKey || c.decided[1].Approve || c.decided[1].Node != "phone" ||
		c.decided[0].Issuer != "corp" || c.decided[0].Subject != "2" || c.decided[0].Rule != "staff" || !c.decided[0].Relay ||
		!slices.Equal(c.decided[0].Routes, c.list.Waiting[0].Routes) {
		t.Errorf("decided %+v", c.decided)
	}
	if _, talk, code := run(t, "", append([]string{"enrol", "approve", "nobody", "-C", dir}, flags...)...); code != cli.Invalid {
		t.Errorf("exit code %d: %s", code, talk)
	}
}

// TestEnrolApproveInGit writes the approval where the compile reads it, and touches nothing else.
func TestEnrolApproveInGit(t *testing.T) {
	c, flags, dir := office(t)
	out, talk, code := run(t, "", append([]string{"enrol", "approve", "laptop", "--pr", "-C", dir}, flags...)...)
	if code != cli.OK || out != "network.yaml\n" || !strings.Contains(talk, "git commit -S") || len(c.decided) != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, out, talk)
	}
	got, err := os.ReadFile(filepath.Join(dir, "network.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w := c.list.Waiting[0]
	added := "  approved:\n    - node: laptop\n      publicKey: " + spec.Key(w.PublicKey).String() + "\n      identityKey: " + spec.Key(w.IdentityKey).String() + "\n" +
		"      issuer: corp\n      subject: \"2\"\n      rule: staff\n      routes: [192.168.7.0/24, 'fd00:7::/64']\n      relay: true\n"
	if want := strings.Replace(officeNetwork, "[staff] # people\n", "[staff] # people\n"+added, 1); string(got) != want {
		t.Errorf("got\n%s", got)
	}
	if _, talk, code := run(t, "", "validate", dir); code != cli.OK {
		t.Errorf("exit code %d: %s", code, talk)
	}
}

// TestPlanEnrolled asks the controller who is enrolled.
func TestPlanEnrolled(t *testing.T) {
	c, flags, dir := office(t)
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgSign=false", "commit", "-q", "-m", "start"}} {
		git := exec.Command("git", append([]string{"-C", dir}, args...)...)
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	text := strings.Replace(officeNetwork, "groups: [staff] # people", "groups: [board]", 1)
	if err := os.WriteFile(filepath.Join(dir, "network.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, talk, code := run(t, "", append([]string{"plan", "--from", "HEAD", dir}, flags...)...)
	if code != cli.OK || !strings.Contains(out, "desk") {
		t.Errorf("exit code %d: %s\n%s", code, out, talk)
	}
	without, _, code := run(t, "", "plan", "--from", "HEAD", dir)
	if code != cli.OK || strings.Contains(without, "desk") || !strings.Contains(without, "is not known") {
		t.Errorf("exit code %d: %s", code, without)
	}
	gone, talk, code := run(t, "", "plan", "--from", "HEAD", dir, "--controller", "http://127.0.0.1:1", "--key", flags[3])
	if code != cli.OK || gone != without || !strings.Contains(talk, "not known") {
		t.Errorf("exit code %d: %s\n%s", code, gone, talk)
	}
	c.refuse = protocol.NewProblem(http.StatusForbidden, protocol.CodeSignature, "not a maintainer")
	if _, talk, code := run(t, "", append([]string{"plan", "--from", "HEAD", dir}, flags...)...); code != cli.Trust {
		t.Errorf("exit code %d: %s", code, talk)
	}
}
