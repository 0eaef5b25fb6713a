package protocol

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/spec/peermap"
)

// Events of the watch (Server-Sent Events, WHATWG HTML 9.2). Data is always one line.
const (
	EventTimestamp  = "timestamp"  // data: a signed timestamp envelope for the manifest the node already has
	EventArtefact   = "artefact"   // data: one artefact of the generation that follows
	EventGeneration = "generation" // data: an Update
)

// AppendEvent appends one event. data must not contain line breaks.
func AppendEvent(dst []byte, event string, data []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, event...)
	dst = append(dst, "\ndata: "...)
	dst = append(dst, data...)
	return append(dst, "\n\n"...)
}

// AppendHeartbeat appends a comment, which says only that the stream is alive.
func AppendHeartbeat(dst []byte) []byte { return append(dst, ": \n\n"...) }

// Message is what the watch says: exactly one of Timestamp and Update is set, or neither for a heartbeat.
type Message struct {
	Timestamp []byte
	Update    *Update
}

// WatchReader reads a watch. It holds at most one event and the artefacts of one update, within the caps of limits.go.
type WatchReader struct {
	lines *bufio.Reader
	close func()
	// artefacts wait for their generation event; size is their sum in bytes.
	artefacts []Artefact
	size      int
}

// NewWatchReader reads the body of a watch response whose Content-Encoding is enc: "", "identity" or "zstd" (a run of
// zstd frames, one or more per flush). Close frees the decoder, not the body.
func NewWatchReader(body io.Reader, enc string) (*WatchReader, error) {
	r := &WatchReader{close: func() {}}
	switch Encoding(enc) {
	case "", Identity:
		r.lines = bufio.NewReader(body)
	case Zstd:
		dec, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		r.lines, r.close = bufio.NewReader(dec), dec.Close
	default:
		return nil, fmt.Errorf("%w: content encoding %.20q", ErrMalformed, enc)
	}
	return r, nil
}

// Close frees the decoder.
func (r *WatchReader) Close() { r.close() }

// Next blocks for the next message, or the error that ended the stream (io.EOF if the server closed it). Events of
// unknown names are passed over, so that later controllers can say more.
func (r *WatchReader) Next() (Message, error) {
	for {
		event, data, err := r.event()
		if err != nil {
			return Message{}, err
		}
		switch event {
		case "":
			return Message{}, nil
		case EventTimestamp:
			if len(data) > peermap.MaxTimestampBytes {
				return Message{}, fmt.Errorf("%w: timestamp of %d bytes", ErrTooLarge, len(data))
			}
			return Message{Timestamp: data}, nil
		case EventArtefact:
			if err := r.hold(data); err != nil {
				return Message{}, err
			}
		case EventGeneration:
			u, err := DecodeUpdate(data)
			if err != nil {
				return Message{}, err
			}
			u.Artefacts, r.artefacts, r.size = r.artefacts, nil, 0
			return Message{Update: &u}, nil
		}
	}
}

func (r *WatchReader) hold(data []byte) error {
	a, err := DecodeArtefact(data)
	if err != nil {
		return err
	}
	if len(r.artefacts) >= MaxUpdateArtefacts || r.size+len(a.Data) > MaxUpdateArtefactBytes {
		return fmt.Errorf("%w: too many artefacts before a generation", ErrTooLarge)
	}
	r.artefacts, r.size = append(r.artefacts, a), r.size+len(a.Data)
	return nil
}

// event reads up to the blank line that ends an event; a block of comments alone is an event without a name.
func (r *WatchReader) event() (name string, data []byte, err error) {
	for {
		line, err := r.line()
		if err != nil {
			return "", nil, err
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0:
			return name, data, nil
		case string(field) == "event":
			name = string(value)
		case string(field) == "data":
			if data != nil {
				return "", nil, fmt.Errorf("%w: event with two data lines", ErrMalformed)
			}
			data = value
		}
	}
}

func (r *WatchReader) line() ([]byte, error) {
	var out []byte
	for {
		part, err := r.lines.ReadSlice('\n')
		if len(out)+len(part) > MaxArtefactEventBytes+64 {
			return nil, fmt.Errorf("%w: event line over %d bytes", ErrTooLarge, MaxArtefactEventBytes)
		}
		out = append(out, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(out[:len(out)-1], []byte("\r")), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
