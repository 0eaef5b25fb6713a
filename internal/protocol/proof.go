package protocol

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// ProofHeader carries the proof of one request.
const ProofHeader = "Apex-Proof"

// proofHead is the only JOSE header a proof may have (RFC 7515); with one algorithm and one type there is nothing to
// negotiate and nothing to confuse.
const proofHead = `{"typ":"apex-proof+jwt","alg":"EdDSA"}`

// ErrProof says that a proof does not prove the request it came with.
var ErrProof = errors.New("proof refused")

// Proof is what a node (or a witness) states about one request: the shape of DPoP, RFC 9449, with the key known from git
// rather than sent along.
type Proof struct {
	// Subject is the node's name, or WitnessSubject of a witness's key.
	Subject string `json:"sub"`
	// Method and URL are those of the request, URL without query and fragment.
	Method string `json:"htm"`
	URL    string `json:"htu"`
	// IssuedAt is in Unix seconds, ID is unique per request: 16 to 64 characters.
	IssuedAt int64  `json:"iat"`
	ID       string `json:"jti"`
	// Body is the SHA-256 of the request body, base64url without padding; empty for requests without one.
	Body string `json:"bdh,omitempty"`
}

// WitnessSubject is the Subject by which the holder of a witness key, named by its key ID, proves itself.
func WitnessSubject(keyID string) string { return "witness:" + keyID }

// NewProof states a request about to be sent: u is its absolute URL, body is nil if it has none.
func NewProof(subject, method string, u *url.URL, body []byte, now time.Time) (Proof, error) {
	var id [16]byte
	if _, err := io.ReadFull(rand.Reader, id[:]); err != nil {
		return Proof{}, fmt.Errorf("make proof: %w", err)
	}
	return Proof{
		Subject: subject, Method: method, URL: proofURL(u), IssuedAt: now.Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id[:]), Body: bodyDigest(body),
	}, nil
}

// Sign gives the token for ProofHeader: a JWS in compact form, RFC 7515, signed as RFC 8037 says. sign makes an Ed25519
// signature over the whole message with the subject's private key (signer.PrivateKey.Sign).
func (p Proof) Sign(sign func(msg []byte) []byte) (string, error) {
	claims, err := Encode(p)
	if err != nil {
		return "", err
	}
	signed := encodeSegment([]byte(proofHead)) + "." + encodeSegment(claims)
	return signed + "." + encodeSegment(sign([]byte(signed))), nil
}

// Token is a parsed proof whose signature has not been checked: nothing but Subject may be used before Verify, and that
// only to find the key.
type Token struct {
	Proof     Proof
	signed    string
	signature []byte
}

// ParseToken reads the value of ProofHeader.
func ParseToken(token string) (*Token, error) {
	if len(token) > MaxProofBytes {
		return nil, fmt.Errorf("%w: token of %d bytes, limit %d", ErrProof, len(token), MaxProofBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: want three dot-separated segments", ErrProof)
	}
	if parts[0] != encodeSegment([]byte(proofHead)) {
		return nil, fmt.Errorf("%w: header is not %s", ErrProof, proofHead)
	}
	claims, err := decodeSegment(parts[1])
	if err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrProof, err)
	}
	t := &Token{signed: parts[0] + "." + parts[1]}
	if err := Decode(claims, MaxProofBytes, &t.Proof); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrProof, err)
	}
	if t.signature, err = decodeSegment(parts[2]); err != nil || len(t.signature) != ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: signature is not %d bytes of base64url", ErrProof, ed25519.SignatureSize)
	}
	return t, nil
}

// Verify checks that the holder of key stated exactly this request, at most ProofSkew from now. path is the request's
// escaped path; hosts are the authorities ("host" or "host:port") the server answers to. Whether the ID was seen before
// is for the caller to check, after Verify.
func (t *Token) Verify(key peermap.Key, method, path string, hosts []string, body []byte, now time.Time) error {
	if key == (peermap.Key{}) || !ed25519.Verify(key[:], []byte(t.signed), t.signature) {
		return fmt.Errorf("%w: signature is not by the identity key of %q", ErrProof, t.Proof.Subject)
	}
	p := t.Proof
	if p.Method != method {
		return fmt.Errorf("%w: made for method %s, not %s", ErrProof, p.Method, method)
	}
	if err := checkURL(p.URL, path, hosts); err != nil {
		return err
	}
	if age := now.Sub(time.Unix(p.IssuedAt, 0)); age > ProofSkew || age < -ProofSkew {
		return fmt.Errorf("%w: made %s from the server's clock, limit %s: check the host's clock", ErrProof, age.Round(time.Second), ProofSkew)
	}
	if len(p.ID) < 16 || len(p.ID) > 64 {
		return fmt.Errorf("%w: jti of %d characters, want 16 to 64", ErrProof, len(p.ID))
	}
	if p.Body != bodyDigest(body) {
		return fmt.Errorf("%w: made for another body", ErrProof)
	}
	return nil
}

func checkURL(raw, path string, hosts []string) error {
	if len(raw) > MaxURLBytes {
		return fmt.Errorf("%w: URL of %d bytes, limit %d", ErrProof, len(raw), MaxURLBytes)
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || proofURL(u) != raw {
		return fmt.Errorf("%w: htu is not a plain http(s) URL without query", ErrProof)
	}
	if u.EscapedPath() != path {
		return fmt.Errorf("%w: made for another resource", ErrProof)
	}
	for _, h := range hosts {
		if strings.EqualFold(u.Host, h) {
			return nil
		}
	}
	return fmt.Errorf("%w: made for host %q, which this server does not answer to", ErrProof, u.Host)
}

// proofURL leaves out query, fragment and user. A path without its first slash (url.URL.JoinPath makes those) gets it, as
// it does on the wire.
func proofURL(u *url.URL) string {
	return u.Scheme + "://" + u.Host + "/" + strings.TrimPrefix(u.EscapedPath(), "/")
}

func bodyDigest(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	sum := sha256.Sum256(body)
	return encodeSegment(sum[:])
}

func encodeSegment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// decodeSegment refuses every spelling but the one encodeSegment writes.
func decodeSegment(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	if encodeSegment(b) != s {
		return nil, errors.New("not canonical base64url")
	}
	return b, nil
}

// SignedBy reports whether the token was signed with the private half of key, whatever it says.
func (t *Token) SignedBy(key peermap.Key) bool {
	return key != (peermap.Key{}) && ed25519.Verify(key[:], []byte(t.signed), t.signature)
}
