// Package backup writes the controller's durable run-time state into one file and brings it back. Git and that file are all
// there is: keys and configuration are the operator's own.
//
// A file is zstd-compressed text, one JSON object per line:
//
//	{"format":"apex-backup@v1","created":"2026-01-02T03:04:05Z","controller":"1.2.3"}
//	{"bucket":{"name":"bindings","description":"…","ttl":0,"maxBytes":0,"maxValueBytes":65536}}   then its keys, sorted
//	{"key":"acme.prod.laptop","value":"<base64>"}
//	{"sha256":"<hex, of every byte before this line>","keys":123}
//
// It promises that a file which is cut short, damaged or of another format restores nothing; that what a file holds was true
// at one moment, or at least that whatever a binding leans on is in it too; and that a restore never makes a controller
// give out a serial that an agent may have seen. Files hold the evidence of enrolments, ID tokens among it: they are secret.
package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/store"
)

// Format names the files that this package writes and reads.
const Format = "apex-backup@v1"

// Limits of what is read back.
const (
	maxLine  = 4 << 20
	maxBytes = 8 << 30
)

var (
	// ErrDamaged says that a file is not what was written.
	ErrDamaged = errors.New("backup is damaged or incomplete")
	// ErrFormat says that a file was written by another version, or is no backup.
	ErrFormat = errors.New("not a backup that this version can read")
)

// Snapshot is the content of a store.
type Snapshot struct {
	Created    time.Time
	Controller string // version
	Buckets    []Bucket
	// Moving says that the store did not keep still: see Take. It is not written.
	Moving bool
}

// Bucket is a bucket with its values.
type Bucket struct {
	Config store.BucketConfig
	Values map[string][]byte
}

// Keys counts the values.
func (s *Snapshot) Keys() int {
	n := 0
	for _, b := range s.Buckets {
		n += len(b.Values)
	}
	return n
}

// passing are buckets whose values come and go by themselves: they are copied as they are found.
var passing = map[string]bool{"status": true, "nonces": true}

func isPassing(c store.BucketConfig) bool { return c.TTL > 0 || passing[c.Name] }

// attempts is how often a store that changes is read again; betweenReads is the pause.
const (
	attempts     = 10
	betweenReads = 50 * time.Millisecond
)

// rank orders the buckets for reading: a binding is written after its address and its used token, and published after that.
// Read in the other direction, a copy holds all that a binding in it leans on, whatever is written meanwhile.
func rank(c store.BucketConfig) int {
	switch c.Name {
	case "bindings", "waiting":
		return 0
	case serials, leases:
		return 2
	}
	return 1
}

// Take copies a store: it is read until two copies in a row are the same, so the first of them held at one moment. A store
// that changes all the time is copied in the order of rank (Snapshot.Moving).
func Take(ctx context.Context, s store.Store, controller string, now time.Time) (*Snapshot, error) {
	configs, err := s.Buckets(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(configs, func(a, b store.BucketConfig) int { return rank(a) - rank(b) })
	var before map[string]uint64
	var out *Snapshot
	for range attempts {
		out = &Snapshot{Created: now.UTC().Truncate(time.Second), Controller: controller}
		revisions := map[string]uint64{}
		for _, c := range configs {
			values, err := read(ctx, s, c, revisions)
			if err != nil {
				return nil, fmt.Errorf("read bucket %s: %w", c.Name, err)
			}
			out.Buckets = append(out.Buckets, Bucket{Config: c, Values: values})
		}
		if before != nil && maps.Equal(before, revisions) {
			return out, nil
		}
		before = revisions
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(betweenReads):
		}
	}
	out.Moving = true
	return out, nil
}

// read copies a bucket and notes the revisions of what stays.
func read(ctx context.Context, s store.Store, c store.BucketConfig, revisions map[string]uint64) (map[string][]byte, error) {
	b, err := s.Bucket(ctx, c)
	if err != nil {
		return nil, err
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	values := map[string][]byte{}
	complete := false
	err = b.Watch(ctx, "", func(change store.Change) {
		switch {
		case complete:
		case change.Key == "":
			complete = true
			enough()
		default:
			values[change.Key] = change.Value
			if !isPassing(c) && c.Name != leases {
				revisions[c.Name+"/"+change.Key] = change.Revision
			}
		}
	})
	if !complete {
		return nil, err
	}
	return values, nil
}

// Lines of a file.
type (
	headLine struct {
		Format     string    `json:"format"`
		Created    time.Time `json:"created"`
		Controller string    `json:"controller"`
	}
	bucketLine struct {
		Bucket *bucketConfig `json:"bucket"`
	}
	valueLine struct {
		Key   string `json:"key"`
		Value []byte `json:"value"`
	}
	lastLine struct {
		Digest string `json:"sha256"`
		Keys   int    `json:"keys"`
	}
	bucketConfig struct {
		Name          string `json:"name"`
		Description   string `json:"description"`
		TTL           int64  `json:"ttl"` // nanoseconds
		MaxBytes      int64  `json:"maxBytes"`
		MaxValueBytes int32  `json:"maxValueBytes"`
	}
	anyLine struct {
		headLine
		bucketLine
		valueLine
		lastLine
	}
)

// Write writes s as a file.
func (s *Snapshot) Write(w io.Writer) (err error) {
	enc, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, enc.Close()) }()
	sum := sha256.New()
	line := func(v any) error {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		data = append(data, '\n')
		sum.Write(data)
		_, err = enc.Write(data)
		return err
	}
	if err := line(headLine{Format, s.Created, s.Controller}); err != nil {
		return err
	}
	for _, b := range s.Buckets {
		c := b.Config
		if err := line(bucketLine{&bucketConfig{c.Name, c.Description, int64(c.TTL), c.MaxBytes, c.MaxValueBytes}}); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(b.Values)) {
			if err := line(valueLine{key, append([]byte{}, b.Values[key]...)}); err != nil {
				return err
			}
		}
	}
	return line(lastLine{hex.EncodeToString(sum.Sum(nil)), s.Keys()})
}

// Read reads a file whole and checks it. Errors: ErrDamaged, ErrFormat.
func Read(r io.Reader) (*Snapshot, error) {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	defer dec.Close()
	lines := bufio.NewScanner(io.LimitReader(dec, maxBytes))
	lines.Buffer(nil, maxLine)
	p := parser{sum: sha256.New()}
	for lines.Scan() {
		if err := p.line(lines.Bytes()); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		if p.out == nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !p.done {
		return nil, fmt.Errorf("%w: its end is missing", ErrDamaged)
	}
	return p.out, nil
}

// parser reads a file line by line:
//
//	head ─▶ (bucket ─▶ value*)* ─▶ last
type parser struct {
	sum  hash.Hash
	out  *Snapshot
	done bool
}

func (p *parser) line(text []byte) error {
	var l anyLine
	if err := json.Unmarshal(text, &l); err != nil {
		if p.out == nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case p.done:
		return fmt.Errorf("%w: it goes on after its end", ErrDamaged)
	case p.out == nil && l.Format != Format:
		return fmt.Errorf("%w: format %.40q, want %q", ErrFormat, l.Format, Format)
	case p.out == nil:
		p.out = &Snapshot{Created: l.Created, Controller: l.headLine.Controller}
	case l.Digest != "":
		if l.Digest != hex.EncodeToString(p.sum.Sum(nil)) || l.Keys != p.out.Keys() {
			return fmt.Errorf("%w: its digest is another", ErrDamaged)
		}
		p.done = true
	case l.Bucket != nil:
		c := l.Bucket
		p.out.Buckets = append(p.out.Buckets, Bucket{Values: map[string][]byte{}, Config: store.BucketConfig{
			Name: c.Name, Description: c.Description, TTL: time.Duration(c.TTL), MaxBytes: c.MaxBytes, MaxValueBytes: c.MaxValueBytes,
		}})
	case len(p.out.Buckets) == 0 || l.Key == "":
		return fmt.Errorf("%w: a value without a place", ErrDamaged)
	default:
		p.out.Buckets[len(p.out.Buckets)-1].Values[l.Key] = l.Value
	}
	p.sum.Write(text)
	p.sum.Write([]byte{'\n'})
	return nil
}
