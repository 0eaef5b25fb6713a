package cluster

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/apex-network/apex/internal/protocol"
)

// FuzzForwarded: whoever may write to the bus cannot bring a leader down, and gets an answer that can be read.
func FuzzForwarded(f *testing.F) {
	for _, q := range []question{
		{Method: "POST", Host: "c", URI: "/v1/networks/acme/apply", Remote: "192.0.2.1:1", Header: http.Header{"A": {"b"}}, Body: []byte("{}")},
		{URI: "//x/../y?%zz"}, {Method: "CONNECT", URI: "*"}, {Method: "GET", URI: "http://[::1%25lo]/v1"},
	} {
		data, err := cbor.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	mux := http.NewServeMux()
	for _, pattern := range forwarded {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a answer
		if err := cbor.Unmarshal(serve(t.Context(), mux, data), &a); err != nil || a.Status < 200 || a.Status > 599 {
			t.Fatalf("status %d, %v", a.Status, err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	seed, err := protocol.Encode(record{Holder: "r1", Replica: "a", Term: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		if again, err := protocol.Encode(r); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted what Encode would not write: %v", err)
		}
	})
}
