package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/spec/peermap"
)

// Encoding says how bytes of an artefact travel.
type Encoding string

// The encodings, named as in HTTP. A Delta is a zstd frame made with the raw bytes of an older artefact as dictionary;
// as a Content-Encoding it follows the header of RFC 9842, inside an event it stands alone and names its dictionary in
// Artefact.From.
const (
	Identity Encoding = "identity"
	Zstd     Encoding = "zstd"
	Delta    Encoding = "dcz"
	// NewClass is for views in events only: the data is a class digest, and the view is the one in Artefact.From with that
	// class. It is what a change of policy or of a peer does to most views.
	NewClass Encoding = "class"
)

func (e Encoding) known() bool {
	return e == Identity || e == Zstd || e.hasBase()
}

// hasBase says whether bytes in this encoding start from an older artefact.
func (e Encoding) hasBase() bool { return e == Delta || e == NewClass }

// ErrDelta says that compressed bytes do not lead to the artefact they stand for: fetch it in full.
var ErrDelta = errors.New("compressed artefact is unusable")

// dczMagic opens a dcz stream: a zstd skippable frame of 32 bytes, the dictionary's SHA-256 (RFC 9842, section 5).
var dczMagic = [8]byte{0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0}

// dictionaryID is what the zstd frame calls its dictionary; the digest beside the frame is what identifies it.
const dictionaryID = 1

// maxWindow bounds what a decoder allocates for its window: the largest class and its dictionary.
const maxWindow = 16 << 20

// Compress gives one zstd frame. The encoder is cheap to make for small inputs and holds nothing afterwards.
func Compress(plain []byte) ([]byte, error) { return compress(plain) }

// Packer makes the same frames smaller, for bytes that are compressed once and sent to many: the blocks of 10 000 peers take
// 47 bytes a peer, where Compress takes 49. It holds some 5 MB of tables, so it is kept no longer than there is work of
// this kind. (The level above takes 43, but 35 MB, which the collector doubles: too much for a controller of 60.) Its
// methods are safe for concurrent use.
type Packer struct{ enc *zstd.Encoder }

// NewPacker makes a Packer, which needs no closing.
func NewPacker() (*Packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return &Packer{enc}, nil
}

// Compress gives one zstd frame, for Decompress.
func (p *Packer) Compress(plain []byte) []byte { return p.enc.EncodeAll(plain, nil) }

// Decompress undoes Compress and fails rather than produce more than limit bytes.
func Decompress(data []byte, limit int) ([]byte, error) { return decompress(data, limit) }

// CompressDelta gives a zstd frame of plain with old as its dictionary.
func CompressDelta(old, plain []byte) ([]byte, error) {
	if len(old) == 0 {
		return compress(plain)
	}
	return compress(plain, zstd.WithEncoderDictRaw(dictionaryID, old), zstd.WithWindowSize(window(len(old)+len(plain))))
}

// window is the smallest window that reaches over n bytes, up to what decoders allow. The default of 8 MB is allocated and
// cleared for each delta, which costs more than making it.
func window(n int) int { return min(max(1<<bits.Len(uint(n)), zstd.MinWindowSize), maxWindow) }

// DecompressDelta undoes CompressDelta with the same old bytes.
func DecompressDelta(old, data []byte, limit int) ([]byte, error) {
	if len(old) == 0 {
		return decompress(data, limit)
	}
	return decompress(data, limit, zstd.WithDecoderDictRaw(dictionaryID, old))
}

// AppendDictionaryHeader puts the RFC 9842 header for a dictionary before a delta: the body of a dcz response.
func AppendDictionaryHeader(dst []byte, dictionary peermap.Digest) []byte {
	dst = append(dst, dczMagic[:]...)
	return append(dst, dictionary[:]...)
}

// CutDictionaryHeader takes the header off the body of a dcz response and gives the dictionary's digest.
func CutDictionaryHeader(body []byte) (peermap.Digest, []byte, error) {
	var d peermap.Digest
	if len(body) < len(dczMagic)+len(d) || !bytes.Equal(body[:len(dczMagic)], dczMagic[:]) {
		return d, nil, fmt.Errorf("%w: no dcz header", ErrDelta)
	}
	copy(d[:], body[len(dczMagic):])
	return d, body[len(dczMagic)+len(d):], nil
}

// Open gives the bytes of an artefact that must have this digest and be at most limit bytes. old is what a Delta or a
// NewClass starts from; for other encodings it is ignored.
func Open(enc Encoding, data, old []byte, want peermap.Digest, limit int) ([]byte, error) {
	var plain []byte
	var err error
	switch enc {
	case Identity:
		plain = data
	case Zstd:
		plain, err = Decompress(data, limit)
	case Delta:
		plain, err = DecompressDelta(old, data, limit)
	case NewClass:
		plain, err = withClass(old, data)
	default:
		return nil, fmt.Errorf("%w: encoding %.20q", ErrDelta, enc)
	}
	if err != nil {
		return nil, err
	}
	if len(plain) > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(plain), limit)
	}
	if got := peermap.DigestOf(plain); got != want {
		return nil, fmt.Errorf("%w: got %s, want %s", ErrDelta, got, want)
	}
	return plain, nil
}

// withClass gives the view old with another class.
func withClass(old, class []byte) ([]byte, error) {
	v, err := peermap.DecodeView(old)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDelta, err)
	}
	if copy(v.Class[:], class) != len(class) || len(class) != len(v.Class) {
		return nil, fmt.Errorf("%w: class digest of %d bytes", ErrDelta, len(class))
	}
	plain, err := peermap.EncodeView(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDelta, err)
	}
	return plain, nil
}

func compress(plain []byte, opts ...zstd.EOption) ([]byte, error) {
	opts = append([]zstd.EOption{
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedDefault),
	}, opts...)
	enc, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	out := enc.EncodeAll(plain, nil)
	return out, enc.Close()
}

func decompress(data []byte, limit int, opts ...zstd.DOption) ([]byte, error) {
	opts = append([]zstd.DOption{
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(max(limit, 1))), zstd.WithDecoderMaxWindow(maxWindow),
	}, opts...)
	dec, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDelta, err)
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDelta, err)
	}
	return plain, nil
}
