package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// pending asks for what waits, for as long as w.Wait.
func (w *witness) pending(ctx context.Context) ([]protocol.Pending, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Wait+30*time.Second)
	defer cancel()
	query := "?" + protocol.QueryWait + "=" + strconv.Itoa(int(w.Wait/time.Second))
	resp, err := w.do(ctx, http.MethodGet, protocol.PendingPath(w.Network), query, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, protocol.ReadProblem(resp)
	}
	var list protocol.PendingList
	if err := protocol.Read(resp.Body, protocol.MaxPendingBytes, &list); err != nil {
		return nil, err
	}
	return list.Pending, nil
}

// getList fetches a zone's list of bindings.
func (w *witness) getList(ctx context.Context, zone string, list peermap.Digest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := w.do(ctx, http.MethodGet, protocol.BindingsPath(w.Network, zone, list), "", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list of bindings: %w", protocol.ReadProblem(resp))
	}
	return protocol.ReadAll(resp.Body, binding.MaxListBytes)
}

// getRecords fetches bindings with their evidence. A controller that says it has one of them no more gives none.
func (w *witness) getRecords(ctx context.Context, digests []peermap.Digest) ([]protocol.BindingRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := protocol.Encode(protocol.BindingsQuery{Digests: digests})
	if err != nil {
		return nil, err
	}
	resp, err := w.do(ctx, http.MethodPost, protocol.RecordsPath(w.Network), "", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, nil
	default:
		return nil, fmt.Errorf("evidence of bindings: %w", protocol.ReadProblem(resp))
	}
	var answer protocol.BindingsAnswer
	if err := protocol.Read(resp.Body, protocol.MaxRecordsBytes, &answer); err != nil {
		return nil, err
	}
	return answer.Records, nil
}

// answer sends a verdict. That the generation is no longer pending is no failure: something newer took its place.
func (w *witness) answer(ctx context.Context, c protocol.Cosign) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := protocol.Encode(c)
	if err != nil {
		return err
	}
	resp, err := w.do(ctx, http.MethodPost, protocol.CosignPath(w.Network), "", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	err = protocol.ReadProblem(resp)
	var p *protocol.Problem
	if errors.As(err, &p) && p.Code == protocol.CodeConflict {
		return nil
	}
	return fmt.Errorf("%w: %w", errUnexpected, err)
}

func (w *witness) do(ctx context.Context, method, path, query string, body []byte) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.Controller.JoinPath(path).String()+query, reader)
	if err != nil {
		return nil, err
	}
	if err := w.hand.show(req, body); err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", protocol.TypeJSON)
	}
	return w.Client.Do(req)
}
