package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// Problem is an error body, RFC 9457. Code is stable and made for programs; Title and Detail are for people.
type Problem struct {
	Type   string `json:"type"` // "about:blank" or a documentation address
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
	// RetryAfter is in seconds and accompanies 429 and 503.
	RetryAfter int `json:"retryAfter,omitempty"`
}

// Problem codes.
const (
	CodeBadRequest   = "bad-request"
	CodeProof        = "proof-refused"  // 401: no valid proof for this resource
	CodeNotFound     = "not-found"      // 404: no such thing, or not for you; never tells which
	CodeReplay       = "replayed"       // 401
	CodeSignature    = "signature"      // 401: SSHSIG or HMAC not by someone who may
	CodeTooLarge     = "too-large"      // 413
	CodeTooMany      = "too-many"       // 429
	CodeNotReady     = "not-ready"      // 503: nothing published yet
	CodeNotAncestor  = "commit-unknown" // 409: apply names a commit that is not the branch head
	CodeRefused      = "commit-refused" // 422: the commit was fetched and refused
	CodeUnsupported  = "unsupported"    // 405, 406, 415
	CodeShuttingDown = "shutting-down"  // 503
	CodeInternal     = "internal"       // 500
	CodeConflict     = "conflict"       // 409: the generation to co-sign is no longer pending
	CodeTimeout      = "timeout"        // 504: the work asked for did not end in time
	CodeHTTP         = "http"           // any: the answer is no Problem, so it is a proxy's and no controller's
	CodeUnreachable  = "unreachable"    // 502, on an agent's socket: no controller answers

	// Of enrolment. A request that waits for a maintainer is no problem: 202 with an EnrolResult.
	CodeToken        = "token-refused"        // 401: the token is not valid here; another one may be
	CodeEnrolRefused = "enrolment-refused"    // 403: no rule admits the identity, or not with what is asked for
	CodeNameTaken    = "name-taken"           // 409: the node name is held by somebody else
	CodeExhausted    = "exhausted"            // 409: no address, or no further node for this identity
	CodeUnavailable  = "provider-unavailable" // 503: the issuer cannot be reached; try again
)

// Error makes a Problem an error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return fmt.Sprintf("%d %s (%s)", p.Status, p.Title, p.Code)
	}
	return fmt.Sprintf("%d %s (%s): %s", p.Status, p.Title, p.Code, p.Detail)
}

// IsLater says whether err came of a controller that does not serve just now, as while it restarts: the same question is worth
// asking again soon.
func IsLater(err error) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return false
	}
	switch p.Code {
	case CodeNotReady, CodeShuttingDown, CodeUnreachable:
		return true
	}
	return p.Code == CodeHTTP && (p.Status == http.StatusBadGateway || p.Status == http.StatusServiceUnavailable ||
		p.Status == http.StatusGatewayTimeout)
}

// NewProblem fills in the title from the HTTP status.
func NewProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// RetryIn gives p with the word to come back after wait, in whole seconds rounded up.
func (p *Problem) RetryIn(wait time.Duration) *Problem {
	p.RetryAfter = int((wait + time.Second - 1) / time.Second)
	return p
}

// Write sends p as the response.
func (p *Problem) Write(w http.ResponseWriter) {
	body, err := Encode(p)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", TypeProblem)
	h.Set("Cache-Control", "no-store")
	h.Del("ETag")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", fmt.Sprint(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client is gone; there is nobody to tell
}

// ReadProblem turns a response that is not a success into an error. Between the parties stand proxies with error pages
// of their own, so this one reader is lenient: what is not a Problem becomes one with the HTTP status. Its words end on terminals
// and in logs, so they come Shown. It does not close the body.
func ReadProblem(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxProblemBytes))
	p := &Problem{}
	if err != nil || json.Unmarshal(body, p) != nil || p.Code == "" {
		p = NewProblem(resp.StatusCode, CodeHTTP, "")
	}
	p.Status = resp.StatusCode
	p.Type, p.Title, p.Detail, p.Code = Shown(p.Type), Shown(p.Title), Shown(p.Detail), Shown(p.Code)
	return p
}

// Shown is foreign text as it may go to a terminal: what does not print, as the start of a control sequence or a mark that turns
// the direction of writing, becomes a question mark; lines stay.
func Shown(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r) || r == '\n':
			return r
		case r == '\t':
			return ' '
		}
		return '?'
	}, s)
}
