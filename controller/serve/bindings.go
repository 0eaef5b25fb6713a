package serve

import (
	"context"
	"net/http"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// Records gives what bindings rest on, by the digests of their payloads. What the store does not have (any more) is left
// out.
type Records func(ctx context.Context, digests []peermap.Digest) ([]protocol.BindingRecord, error)

// getBindings gives a witness the list of bindings that a manifest names: of a generation that waits, or that is kept.
func (s *Server) getBindings(r *http.Request) (body, error) {
	n, _, err := s.authenticateWitness(r, nil)
	if err != nil {
		return body{}, err
	}
	var d peermap.Digest
	if d.UnmarshalText([]byte(r.PathValue("digest"))) != nil {
		return body{}, notFound()
	}
	z, ok := n.Publisher.Zone(r.PathValue("zone"))
	if !ok {
		return body{}, notFound()
	}
	list, ok := z.Bindings(d)
	if !ok {
		return body{}, notFound()
	}
	return body{kind: protocol.TypeText, cache: cacheForOne, etag: d.String(), data: list}, nil
}

// postRecords gives a witness bindings with their evidence, tokens included: they go to nobody else.
func (s *Server) postRecords(w http.ResponseWriter, r *http.Request, data []byte) error {
	n, _, err := s.authenticateWitness(r, data)
	if err != nil {
		return err
	}
	var q protocol.BindingsQuery
	if err := protocol.Decode(data, protocol.MaxBindingsQueryBytes, &q); err != nil {
		return err
	}
	if len(q.Digests) == 0 || len(q.Digests) > protocol.MaxBindingsAsked {
		return badRequest("digests: want 1 to %d", protocol.MaxBindingsAsked)
	}
	if n.Records == nil {
		return notFound()
	}
	records, err := n.Records(r.Context(), q.Digests)
	if err != nil {
		return err
	}
	return writeJSON(w, protocol.BindingsAnswer{Records: fitting(records)})
}

// fitting leaves out the last records where they are more than one answer may hold: the witness asks for them again.
func fitting(records []protocol.BindingRecord) []protocol.BindingRecord {
	size := 0
	for i, r := range records {
		// Base64, and some room for the fields' names.
		if size += (len(r.Envelope)+len(r.Evidence))*4/3 + 64; size > protocol.MaxRecordsBytes-1<<10 {
			return records[:i]
		}
	}
	if records == nil {
		return []protocol.BindingRecord{}
	}
	return records
}
