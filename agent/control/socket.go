package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
)

const (
	// maxRequest bounds what a client may say: two tokens and some words. maxAnswer bounds what it reads.
	maxRequest = 48 << 10
	maxAnswer  = 256 << 10
	// patience bounds one call: the agent may have to ask several controllers. The client waits a little longer, to hear why.
	patience = 80 * time.Second
	longer   = 5 * time.Second
)

// ErrNoZone says that the host is not configured for the zone that was asked for, or that none was named and it has several.
var ErrNoZone = errors.New("no such zone on this host")

// Handle puts the handlers of c on the mux of the status socket.
func Handle(mux *http.ServeMux, c Controls) {
	mux.HandleFunc("GET "+PathEnrolment, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		out, err := c.Enrolment(ctx, r.URL.Query().Get("zone"))
		answer(w, out, err)
	})
	mux.HandleFunc("GET "+PathRotate, func(w http.ResponseWriter, r *http.Request) {
		out, err := c.Rotation(r.Context(), r.URL.Query().Get("zone"))
		answer(w, out, err)
	})
	handle(mux, PathJoin, func(ctx context.Context, in Join) (Enrolment, error) { return c.Join(ctx, in) })
	handle(mux, PathLeave, func(ctx context.Context, in Zone) (Enrolment, error) { return c.Leave(ctx, in.Zone) })
	handle(mux, PathRotate, func(ctx context.Context, in Zone) (Rotation, error) { return c.Rotate(ctx, in.Zone) })
}

// handle decodes a request strictly, so that a misspelt field is not silently nothing.
func handle[In, Out any](mux *http.ServeMux, path string, do func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		// A browser cannot be made to send this to a unix socket, but a careless proxy could be put before it.
		if r.Header.Get("Content-Type") != protocol.TypeJSON {
			protocol.NewProblem(http.StatusUnsupportedMediaType, protocol.CodeUnsupported, "want "+protocol.TypeJSON).Write(w)
			return
		}
		var in In
		body, err := protocol.ReadAll(r.Body, maxRequest)
		if err == nil {
			err = protocol.Decode(body, maxRequest, &in)
		}
		if err != nil {
			// The error of the decoder names fields and offsets, never what stands in them.
			protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, err.Error()).Write(w)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		out, err := do(ctx, in)
		answer(w, out, err)
	})
}

// answer writes a result, or an error as a Problem: the controller's own where it is one.
func answer(w http.ResponseWriter, out any, err error) {
	var problem *protocol.Problem
	switch {
	case err == nil:
		body, err := protocol.Encode(out)
		if err != nil {
			protocol.NewProblem(http.StatusInternalServerError, protocol.CodeInternal, err.Error()).Write(w)
			return
		}
		w.Header().Set("Content-Type", protocol.TypeJSON)
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(body) // the client is gone; there is nobody to tell
	case errors.Is(err, ErrNoZone):
		protocol.NewProblem(http.StatusNotFound, protocol.CodeNotFound, err.Error()).Write(w)
	case errors.As(err, &problem) && problem.Status >= 400:
		p := *problem
		p.Detail = err.Error()
		if problem.Detail != "" {
			p.Detail = problem.Detail
		}
		p.Write(w)
	default:
		protocol.NewProblem(http.StatusBadGateway, protocol.CodeInternal, err.Error()).Write(w)
	}
}

// Client asks the agent behind a unix socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient gives a client of the socket at path. It connects when asked, not before.
func NewClient(path string) *Client { return NewClientOver(status.Transport(path), path) }

// NewClientOver is NewClient with another way to the agent; path is what errors name.
func NewClientOver(transport http.RoundTripper, path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: transport, Timeout: patience + longer}}
}

// Enrolment asks how a zone stands and how to join it.
func (c *Client) Enrolment(ctx context.Context, zone string) (Enrolment, error) {
	var out Enrolment
	err := c.call(ctx, http.MethodGet, ofZone(PathEnrolment, zone), nil, &out)
	return out, err
}

func ofZone(path, zone string) string {
	if zone == "" {
		return path
	}
	return path + "?" + url.Values{"zone": {zone}}.Encode()
}

// Join hands a token over. The result's stage is bound or waiting; a refusal is a *protocol.Problem with the controller's
// words.
func (c *Client) Join(ctx context.Context, join Join) (Enrolment, error) {
	var out Enrolment
	err := c.call(ctx, http.MethodPost, PathJoin, join, &out)
	return out, err
}

// Leave ends the binding and forgets the refresh token.
func (c *Client) Leave(ctx context.Context, zone string) (Enrolment, error) {
	var out Enrolment
	err := c.call(ctx, http.MethodPost, PathLeave, Zone{zone}, &out)
	return out, err
}

// Rotation says how a change to new keys stands.
func (c *Client) Rotation(ctx context.Context, zone string) (Rotation, error) {
	var out Rotation
	err := c.call(ctx, http.MethodGet, ofZone(PathRotate, zone), nil, &out)
	return out, err
}

// Rotate begins, or goes on with, the change to new keys.
func (c *Client) Rotate(ctx context.Context, zone string) (Rotation, error) {
	var out Rotation
	err := c.call(ctx, http.MethodPost, PathRotate, Zone{zone}, &out)
	return out, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = protocol.Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", protocol.TypeJSON)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return status.ExplainDial(c.path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return protocol.ReadProblem(resp)
	}
	answer, err := protocol.ReadAll(resp.Body, maxAnswer)
	if err == nil {
		// An agent of a later version may say more.
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("agent's socket %s: %w", c.path, err)
	}
	return nil
}
