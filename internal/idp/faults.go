package idp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Break makes an endpoint misbehave from the next request on; a nil fault mends it.
func (i *Issuer) Break(e Endpoint, f Fault) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.faults[e] = f
}

// Fault serves a request in place of an endpoint's honest handler.
type Fault func(w http.ResponseWriter, r *http.Request, honest http.HandlerFunc)

// Hang accepts the request and never answers.
func Hang() Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) { <-r.Context().Done() }
}

// Status answers with an HTTP status and a short text.
func Status(code int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		http.Error(w, http.StatusText(code), code)
	}
}

// Endless answers 200 with a JSON string that never ends, as fast as the client takes it.
func Endless() Fault {
	return stream([]byte(strings.Repeat("a", 32<<10)), 0)
}

// Trickle answers 200 and then gives a byte every now and then, for ever.
func Trickle() Fault {
	return stream([]byte(" "), 20*time.Millisecond)
}

func stream(chunk []byte, pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write([]byte(`{"issuer":"`))
		flusher := http.NewResponseController(w)
		for err == nil {
			if _, err = w.Write(chunk); err == nil {
				err = flusher.Flush()
			}
			if pause > 0 {
				err = errors.Join(err, sleep(r.Context(), pause))
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Body answers 200 with a body that is not this endpoint's.
func Body(contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(body))
	}
}

// CutShort promises more bytes than it sends.
func CutShort() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Length", "4096")
		_, _ = w.Write([]byte(`{"issuer":`))
	}
}

// RedirectTo sends the client elsewhere.
func RedirectTo(address string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		http.Redirect(w, r, address, http.StatusTemporaryRedirect)
	}
}

// Edit lets change rewrite the honest JSON answer: the issuer of a discovery document, say.
func Edit(change func(answer map[string]any)) Fault {
	return func(w http.ResponseWriter, r *http.Request, honest http.HandlerFunc) {
		rec := &recorder{header: http.Header{}, status: http.StatusOK}
		honest(rec, r)
		answer := map[string]any{}
		if err := json.Unmarshal(rec.body, &answer); err != nil {
			http.Error(w, fmt.Sprintf("the honest answer is no JSON object: %v", err), http.StatusInternalServerError)
			return
		}
		change(answer)
		writeJSON(w, rec.status, answer)
	}
}

// recorder keeps an answer in memory.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { r.body = append(r.body, b...); return len(b), nil }
