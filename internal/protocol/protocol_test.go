package protocol_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

func newKey(t testing.TB) signer.PrivateKey {
	t.Helper()
	k, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func envelope(t testing.TB, kind, payload string) []byte {
	t.Helper()
	env, err := signer.SignEd25519(kind, []byte(payload), newKey(t), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func view(t testing.TB, class string) []byte {
	t.Helper()
	b, err := peermap.EncodeView(peermap.View{
		Network: "acme", Zone: "prod", Node: "a", PublicKey: peermap.Key{1},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		ListenPort: 51820, MTU: 1420, Class: peermap.DigestOf([]byte(class)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sampleUpdate(t testing.TB) protocol.Update {
	old, now := view(t, "old"), view(t, "new")
	class := peermap.DigestOf([]byte("new"))
	return protocol.Update{
		Manifest: envelope(t, peermap.ManifestType, `{"a":"<&>","b":1}`), Timestamp: envelope(t, peermap.TimestampType, `{"c":2}`),
		RootVersion: 3, Index: 4, Size: 9, Proof: []peermap.Digest{{1}, {2}}, ViewDigest: peermap.DigestOf(now),
		View: &protocol.Artefact{Digest: peermap.DigestOf(now), From: peermap.DigestOf(old), Encoding: protocol.NewClass, Data: class[:]},
		Artefacts: []protocol.Artefact{
			{Digest: peermap.Digest{7}, Encoding: protocol.Identity, Data: []byte("seven")},
			{Digest: peermap.Digest{8}, From: peermap.Digest{7}, Encoding: protocol.Delta, Data: []byte{1, 2}},
		},
	}
}

func TestUpdateTravelsPlainAndCompressed(t *testing.T) {
	want := sampleUpdate(t)
	plain, err := protocol.AppendUpdate(protocol.AppendHeartbeat(nil), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, enc := range []string{"", "zstd"} {
		// A pipe shows whether a message is delivered as soon as its frame is complete, without the next one.
		pr, pw := io.Pipe()
		body := plain
		if enc == "zstd" {
			if body, err = protocol.Compress(plain); err != nil {
				t.Fatal(err)
			}
		}
		go func() { _, _ = pw.Write(body) }()
		r, err := protocol.NewWatchReader(pr, enc)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := r.Next(); err != nil || m.Update != nil || m.Timestamp != nil {
			t.Fatalf("heartbeat: %+v, %v", m, err)
		}
		m, err := r.Next()
		if err != nil || m.Update == nil {
			t.Fatalf("%q: %+v, %v", enc, m, err)
		}
		if !reflect.DeepEqual(*m.Update, want) {
			t.Fatalf("%q: got %+v\nwant %+v", enc, *m.Update, want)
		}
		go func() { _, _ = pw.Write(body) }()
		if _, err := r.Next(); err != nil {
			t.Fatalf("%q, second frame: %v", enc, err)
		}
		if m, err := r.Next(); err != nil || len(m.Update.Artefacts) != 2 {
			t.Fatalf("%q, second update carries over: %+v, %v", enc, m, err)
		}
		pw.CloseWithError(io.EOF)
		if _, err := r.Next(); err == nil {
			t.Fatal("no error at the end of the stream")
		}
		r.Close()
	}
}

func TestViewWithNewClassOpens(t *testing.T) {
	u := sampleUpdate(t)
	old, want := view(t, "old"), view(t, "new")
	got, err := u.View.Open(peermap.MaxViewBytes, func(d peermap.Digest) ([]byte, bool) { return old, d == peermap.DigestOf(old) })
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%x, %v", got, err)
	}
	if _, err := u.View.Open(peermap.MaxViewBytes, func(peermap.Digest) ([]byte, bool) { return nil, false }); !errors.Is(err, protocol.ErrDelta) {
		t.Fatalf("without the old view: %v", err)
	}
	if _, err := u.View.Open(peermap.MaxViewBytes, func(peermap.Digest) ([]byte, bool) { return want[:40], true }); !errors.Is(err, protocol.ErrDelta) {
		t.Fatalf("with a broken old view: %v", err)
	}
}

func TestUpdateRefusals(t *testing.T) {
	u := sampleUpdate(t)
	full, err := protocol.AppendUpdate(nil, u)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := protocol.AppendLeaf(nil, u)
	if err != nil {
		t.Fatal(err)
	}
	for name, stream := range map[string]string{
		"generation without manifest": string(leaf),
		"two data lines":              "event: timestamp\ndata: a\ndata: b\n\n",
		"duplicate key":               strings.Replace(string(full), `"index":4`, `"index":4,"index":4`, 1),
		"unknown key":                 strings.Replace(string(full), `"index":4`, `"indexx":4,"index":4`, 1),
		"case-folded key":             strings.Replace(string(full), `"index":4`, `"Index":4`, 1),
		"null":                        strings.Replace(string(full), `"index":4`, `"index":null`, 1),
		"other view":                  strings.Replace(string(full), u.ViewDigest.String(), strings.Repeat("0", 64), 1),
		"unknown encoding":            strings.Replace(string(full), `"dcz"`, `"gzip"`, 1),
		"endless timestamp":           "event: timestamp\ndata: " + strings.Repeat("a", peermap.MaxTimestampBytes+1) + "\n\n",
	} {
		r, err := protocol.NewWatchReader(strings.NewReader(stream), "")
		if err != nil {
			t.Fatal(err)
		}
		for {
			m, err := r.Next()
			if errors.Is(err, protocol.ErrMalformed) || errors.Is(err, protocol.ErrTooLarge) {
				break
			}
			if err != nil || m.Update != nil || m.Timestamp != nil {
				t.Errorf("%s: %+v, %v", name, m, err)
				break
			}
		}
	}
}

func TestEndlessLineIsRefused(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("event: artefact\ndata: "), neverEnding('a'))
	r, err := protocol.NewWatchReader(endless, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, protocol.ErrTooLarge) {
		t.Fatal(err)
	}
}

type neverEnding byte

func (n neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(n)
	}
	return len(p), nil
}

func TestCompressionRoundTripAndBombs(t *testing.T) {
	old := bytes.Repeat([]byte("peer record of some node "), 400)
	plain := append(bytes.Clone(old), "and one more"...)
	for _, enc := range []protocol.Encoding{protocol.Identity, protocol.Zstd, protocol.Delta} {
		data, err := plain, error(nil)
		switch enc {
		case protocol.Zstd:
			data, err = protocol.Compress(plain)
		case protocol.Delta:
			data, err = protocol.CompressDelta(old, plain)
			if len(data) > 100 {
				t.Errorf("delta of %d bytes", len(data))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := protocol.Open(enc, data, old, peermap.DigestOf(plain), len(plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%s: %v", enc, err)
		}
		if _, err := protocol.Open(enc, data, old, peermap.Digest{}, len(plain)); !errors.Is(err, protocol.ErrDelta) {
			t.Errorf("%s with another digest: %v", enc, err)
		}
		if _, err := protocol.Open(enc, data, old, peermap.DigestOf(plain), len(plain)-1); err == nil {
			t.Errorf("%s over the limit was opened", enc)
		}
	}
	bomb, err := protocol.Compress(make([]byte, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.Decompress(bomb, 1<<20); err == nil {
		t.Fatal("a bomb went off")
	}
}

func TestDictionaryHeader(t *testing.T) {
	d := peermap.DigestOf([]byte("x"))
	body := append(protocol.AppendDictionaryHeader(nil, d), "rest"...)
	got, rest, err := protocol.CutDictionaryHeader(body)
	if err != nil || got != d || string(rest) != "rest" {
		t.Fatal(got, rest, err)
	}
	if _, _, err := protocol.CutDictionaryHeader(body[:20]); err == nil {
		t.Fatal("half a header was taken")
	}
}

func TestProofStandsForOneRequest(t *testing.T) {
	key, now := newKey(t), time.Unix(1_800_000_000, 0)
	u, err := url.Parse("https://ctl.example:8443/v1/networks/n/zones/z/nodes/a/status?x=y")
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"a":1}`)
	p, err := protocol.NewProof("a", "POST", u, body, now)
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Sign(key.Sign)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(token string, key peermap.Key, method, path, host string, body []byte, now time.Time) error {
		parsed, err := protocol.ParseToken(token)
		if err != nil {
			return err
		}
		return parsed.Verify(key, method, path, []string{host}, body, now)
	}
	good, host := peermap.Key(key.Raw()), "CTL.example:8443"
	if err := verify(token, good, "POST", u.Path, host, body, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	other := newKey(t)
	head, rest, _ := strings.Cut(token, ".")
	for name, err := range map[string]error{
		"other key":    verify(token, other.Raw(), "POST", u.Path, host, body, now),
		"no key":       verify(token, peermap.Key{}, "POST", u.Path, host, body, now),
		"other method": verify(token, good, "GET", u.Path, host, body, now),
		"other path":   verify(token, good, "POST", u.Path+"x", host, body, now),
		"other host":   verify(token, good, "POST", u.Path, "evil", body, now),
		"other body":   verify(token, good, "POST", u.Path, host, []byte(`{"a":2}`), now),
		"no body":      verify(token, good, "POST", u.Path, host, nil, now),
		"too old":      verify(token, good, "POST", u.Path, host, body, now.Add(61*time.Second)),
		"too new":      verify(token, good, "POST", u.Path, host, body, now.Add(-61*time.Second)),
		"alg none":     verify("eyJ0eXAiOiJhcGV4LXByb29mK2p3dCIsImFsZyI6Im5vbmUifQ."+rest, good, "POST", u.Path, host, body, now),
		"padding":      verify(token+"=", good, "POST", u.Path, host, body, now),
		"cut":          verify(token[:len(token)-1], good, "POST", u.Path, host, body, now),
		"two parts":    verify(head, good, "POST", u.Path, host, body, now),
		"too long":     verify(token+strings.Repeat("a", protocol.MaxProofBytes), good, "POST", u.Path, host, body, now),
	} {
		if !errors.Is(err, protocol.ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignedRequests(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	commit := strings.Repeat("ab", 20)
	payload, err := protocol.NewApply("acme", commit, now)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := protocol.ParseApply(payload, "acme", now.Add(time.Minute)); err != nil || a.Commit != commit {
		t.Fatal(a, err)
	}
	query, err := protocol.NewStatusQuery("acme", now)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"other network": second(protocol.ParseApply(payload, "evil", now)),
		"too old":       second(protocol.ParseApply(payload, "acme", now.Add(protocol.RequestSkew+time.Second))),
		"query":         second(protocol.ParseApply(query, "acme", now)),
		"short commit":  second(protocol.ParseApply(bytes.Replace(payload, []byte(commit), []byte("abcd"), 1), "acme", now)),
		"space":         second(protocol.ParseApply(append([]byte(" "), payload...), "acme", now)),
	} {
		if !errors.Is(err, protocol.ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := http.Header{}
	want := protocol.SignedRequest{Payload: query, Signature: "-----BEGIN"}
	if err := protocol.SetRequest(h, want); err != nil {
		t.Fatal(err)
	}
	if got, err := protocol.GetRequest(h); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatal(got, err)
	}
	if _, err := protocol.GetRequest(http.Header{}); !errors.Is(err, protocol.ErrRequest) {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

func sampleStatus() protocol.NodeStatus {
	return protocol.NodeStatus{Network: "acme", Zone: "prod", Node: "a", Agent: "v1", Conditions: []protocol.Condition{
		{Type: protocol.ConditionReady, Status: protocol.StatusTrue, Reason: "Applied", Message: "generation 4 is enforced"},
	}}
}

func TestStatusBounds(t *testing.T) {
	encode := func(f func(*protocol.NodeStatus)) []byte {
		s := sampleStatus()
		f(&s)
		b, err := protocol.Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := protocol.DecodeStatus(encode(func(*protocol.NodeStatus) {}), "acme", "prod", "a"); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"other node":   encode(func(s *protocol.NodeStatus) { s.Node = "b" }),
		"long message": encode(func(s *protocol.NodeStatus) { s.Conditions[0].Message = strings.Repeat("x", protocol.MaxMessage+1) }),
		"odd status":   encode(func(s *protocol.NodeStatus) { s.Conditions[0].Status = "Maybe" }),
		"many":         encode(func(s *protocol.NodeStatus) { s.Conditions = make([]protocol.Condition, protocol.MaxConditions+1) }),
		"not JSON":     []byte("hello"),
	} {
		if _, err := protocol.DecodeStatus(data, "acme", "prod", "a"); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := protocol.DecodeStatus(make([]byte, protocol.MaxStatusBytes+1), "acme", "prod", "a"); !errors.Is(err, protocol.ErrTooLarge) {
		t.Error(err)
	}
}

func TestProblemTravels(t *testing.T) {
	w := httptest.NewRecorder()
	p := protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany, "slow down")
	p.RetryAfter = 5
	p.Write(w)
	resp := w.Result()
	if resp.Header.Get("Retry-After") != "5" || resp.Header.Get("Content-Type") != protocol.TypeProblem {
		t.Fatal(resp.Header)
	}
	var got *protocol.Problem
	if err := protocol.ReadProblem(resp); !errors.As(err, &got) || *got != *p {
		t.Fatal(err)
	}
	proxy := &http.Response{StatusCode: 502, Body: io.NopCloser(strings.NewReader("<html>Bad gateway"))}
	if err := protocol.ReadProblem(proxy); !errors.As(err, &got) || got.Status != 502 || got.Code == "" {
		t.Fatal(err)
	}
	liar := httptest.NewRecorder()
	protocol.NewProblem(http.StatusForbidden, "\x1b[2Kcode", "\u009b2Kone\ttwo\r\nthree\u202eruof\xff").Write(liar)
	const shown = "403 Forbidden (?[2Kcode): ?2Kone two?\nthree?ruof\ufffd"
	if err := protocol.ReadProblem(liar.Result()); err.Error() != shown {
		t.Errorf("it is shown as %q", err)
	}
}

func FuzzToken(f *testing.F) {
	u, err := url.Parse("https://c/v1/x")
	if err != nil {
		f.Fatal(err)
	}
	p, err := protocol.NewProof("a", "GET", u, nil, time.Unix(1_800_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	key := newKey(f)
	token, err := p.Sign(key.Sign)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	stranger := newKey(f)
	f.Fuzz(func(t *testing.T, token string) {
		parsed, err := protocol.ParseToken(token)
		if err != nil {
			return
		}
		if parsed.Verify(stranger.Raw(), "GET", "/v1/x", []string{"c"}, nil, time.Unix(1_800_000_000, 0)) == nil {
			t.Fatal("a stranger's key verified a token")
		}
	})
}

func FuzzApply(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	payload, err := protocol.NewApply("acme", strings.Repeat("0", 40), now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := protocol.ParseApply(data, "acme", now)
		if err != nil {
			return
		}
		again, err := protocol.Encode(a)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("two spellings of one apply: %s, %s", data, again)
		}
	})
}

func FuzzStatus(f *testing.F) {
	data, err := protocol.Encode(sampleStatus())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := protocol.DecodeStatus(data, "acme", "prod", "a")
		if err == nil && (s.Node != "a" || !json.Valid(data)) {
			t.Fatalf("accepted %s", data)
		}
	})
}

func FuzzWatch(f *testing.F) {
	stream, err := protocol.AppendUpdate(nil, sampleUpdate(f))
	if err != nil {
		f.Fatal(err)
	}
	packed, err := protocol.Compress(stream)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stream, false)
	f.Add(packed, true)
	f.Fuzz(func(t *testing.T, data []byte, zstd bool) {
		enc := ""
		if zstd {
			enc = "zstd"
		}
		r, err := protocol.NewWatchReader(bytes.NewReader(data), enc)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 1000 {
			m, err := r.Next()
			if err != nil {
				return
			}
			if m.Update != nil {
				if _, err := protocol.AppendUpdate(nil, *m.Update); err != nil {
					t.Fatalf("an update that was read cannot be written: %v", err)
				}
			}
		}
	})
}

func FuzzCosign(f *testing.F) {
	data, err := protocol.Encode(protocol.Cosign{Zone: "prod", KeyID: strings.Repeat("0", 64), Signature: make([]byte, 64)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := protocol.DecodeCosign(data)
		if err == nil && (len(c.Signature) == 0) == (c.Refusal == "") {
			t.Fatal("neither or both")
		}
	})
}
