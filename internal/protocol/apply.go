package protocol

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// SSHSIG namespaces of signed requests.
const (
	ApplyNamespace  = "apex-apply@v1"
	StatusNamespace = "apex-status@v1"
)

// RequestHeader carries a SignedRequest, base64url of its JSON, on a GET.
const RequestHeader = "Apex-Request"

// ErrRequest says that a signed request does not stand for what it was used for.
var ErrRequest = errors.New("signed request refused")

// Apply asks the controller to fetch now and to take this commit. It names a commit, never content: the commit still
// has to be the head of the branch and to pass every check.
type Apply struct {
	Network string `json:"network"`
	Commit  string `json:"commit"` // 40 or 64 hex digits
	Nonce   string `json:"nonce"`  // 22 characters, base64url of 16 random bytes
	Issued  int64  `json:"issued"` // Unix seconds
}

// ApplyResult is the answer to an accepted Apply. Zones lists what the commit is published as; a zone that waits for
// witnesses, is suspended or unchanged keeps its older commit.
type ApplyResult struct {
	Commit string       `json:"commit"`
	Zones  []ZoneStatus `json:"zones"`
	// Ticket lets who applied with a token, which is good for one apply, follow the rollout: see NewTicket.
	Ticket string `json:"ticket,omitempty"`
}

// StatusQuery asks for a FleetStatus.
type StatusQuery struct {
	Network string `json:"network"`
	Nonce   string `json:"nonce"`
	Issued  int64  `json:"issued"`
}

// SignedRequest is an Apply or a StatusQuery with an SSHSIG over Payload, its exact bytes. The signature is verified
// before the payload is parsed.
type SignedRequest struct {
	Payload   []byte `json:"payload"`
	Signature string `json:"signature"` // one armoured SSHSIG block
}

// NewApply makes the payload to sign for taking commit.
func NewApply(network, commit string, now time.Time) ([]byte, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	return Encode(Apply{Network: network, Commit: commit, Nonce: nonce, Issued: now.Unix()})
}

// NewStatusQuery makes the payload to sign for reading the fleet's status.
func NewStatusQuery(network string, now time.Time) ([]byte, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	return Encode(StatusQuery{Network: network, Nonce: nonce, Issued: now.Unix()})
}

// ParseApply reads a payload whose signature has been verified and checks that it is for this network and recent.
func ParseApply(payload []byte, network string, now time.Time) (Apply, error) {
	var a Apply
	if err := Decode(payload, MaxApplyBytes, &a); err != nil {
		return Apply{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if !isCommit(a.Commit) {
		return Apply{}, fmt.Errorf("%w: %.80q is not a full commit id", ErrRequest, a.Commit)
	}
	if err := checkRequest(a.Network, network, a.Nonce, a.Issued, now); err != nil {
		return Apply{}, err
	}
	return a, nil
}

// ParseStatusQuery reads a payload whose signature has been verified and checks that it is for this network and recent.
func ParseStatusQuery(payload []byte, network string, now time.Time) (StatusQuery, error) {
	var q StatusQuery
	if err := Decode(payload, MaxApplyBytes, &q); err != nil {
		return StatusQuery{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkRequest(q.Network, network, q.Nonce, q.Issued, now); err != nil {
		return StatusQuery{}, err
	}
	return q, nil
}

// SetRequest puts a signed request into the header of a GET.
func SetRequest(h http.Header, r SignedRequest) error {
	b, err := Encode(r)
	if err != nil {
		return err
	}
	h.Set(RequestHeader, encodeSegment(b))
	return nil
}

// GetRequest reads the signed request from the header of a GET.
func GetRequest(h http.Header) (SignedRequest, error) {
	v := h.Get(RequestHeader)
	if v == "" || len(v) > base64.RawURLEncoding.EncodedLen(MaxApplyBytes) {
		return SignedRequest{}, fmt.Errorf("%w: header %s is missing or too long", ErrRequest, RequestHeader)
	}
	b, err := decodeSegment(v)
	if err != nil {
		return SignedRequest{}, fmt.Errorf("%w: header %s: %w", ErrRequest, RequestHeader, err)
	}
	var r SignedRequest
	if err := Decode(b, MaxApplyBytes, &r); err != nil {
		return SignedRequest{}, fmt.Errorf("%w: header %s: %w", ErrRequest, RequestHeader, err)
	}
	return r, nil
}

func checkRequest(got, want, nonce string, issued int64, now time.Time) error {
	if got != want {
		return fmt.Errorf("%w: made for network %.80q", ErrRequest, got)
	}
	if b, err := decodeSegment(nonce); err != nil || len(b) != 16 {
		return fmt.Errorf("%w: nonce is not 16 bytes of base64url", ErrRequest)
	}
	if age := now.Sub(time.Unix(issued, 0)); age > RequestSkew || age < -RequestSkew {
		return fmt.Errorf("%w: signed %s from the controller's clock, limit %s: sign it again", ErrRequest, age.Round(time.Second), RequestSkew)
	}
	return nil
}

func newNonce() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand.Reader, b[:]); err != nil {
		return "", fmt.Errorf("make nonce: %w", err)
	}
	return encodeSegment(b[:]), nil
}

func isCommit(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
