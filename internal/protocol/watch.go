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

// Message is what the watch says: exactly one of Timestamp and Update is set, or neither for a heartbeat.
type Message struct {
	Timestamp []byte
	Update    *Update
}

// WatchReader reads a watch. It holds at most one event and the artefacts of one update, within the caps of limits.go.
type WatchReader struct {
	lines *bufio.Reader
	close func()
	// update waits for its generation event; size is the sum of its artefacts in bytes, head whether a manifest came.
	update Update
	size   int
	head   bool
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
			err = r.hold(data)
		case EventManifest:
			err, r.head = decodeHead(data, &r.update), true
		case EventGeneration:
			return r.complete(data)
		}
		if err != nil {
			return Message{}, err
		}
	}
}

func (r *WatchReader) complete(data []byte) (Message, error) {
	if !r.head {
		return Message{}, fmt.Errorf("%w: generation without a manifest", ErrMalformed)
	}
	u := r.update
	if err := decodeLeaf(data, &u); err != nil {
		return Message{}, err
	}
	r.update, r.size, r.head = Update{}, 0, false
	return Message{Update: &u}, nil
}

func (r *WatchReader) hold(data []byte) error {
	a, err := decodeArtefact(data)
	if err != nil {
		return err
	}
	if len(r.update.Artefacts) >= MaxUpdateArtefacts || r.size+len(a.Data) > MaxUpdateArtefactBytes {
		return fmt.Errorf("%w: too many artefacts before a generation", ErrTooLarge)
	}
	r.update.Artefacts, r.size = append(r.update.Artefacts, a), r.size+len(a.Data)
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
