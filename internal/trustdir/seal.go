package trustdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/apex-network/apex/signer"
)

// NamespaceSeal is the SSHSIG namespace of the signatures in a seal file.
const NamespaceSeal = "apex-seal@v1"

// maxSealBytes bounds a seal file.
const maxSealBytes = 256 << 10

// Seal is the content of a seal file: armoured SSH signatures of root keys over SealStatement, as
// `ssh-keygen -Y sign -n apex-seal@v1` prints them. Where the root threshold is 1, the signature on the sealing commit is
// enough and there is no file.
type Seal struct {
	Signatures []string `json:"signatures"`
}

// SealStatement is what root keys sign to vouch for a commit and everything before it.
func SealStatement(network, commit string) []byte {
	return fmt.Appendf(nil, "apex-seal@v1\nnetwork %s\ncommit %s\n", network, commit)
}

// ParseSeal reads a seal file. Unknown fields and trailing text are errors.
func ParseSeal(data []byte) (Seal, error) {
	var s Seal
	if len(data) > maxSealBytes {
		return s, fmt.Errorf("seal: %w: at most %d bytes are read", signer.ErrTooLarge, maxSealBytes)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("seal: %w: %w", signer.ErrFormat, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || len(s.Signatures) > signer.MaxSignatures {
		return s, fmt.Errorf("seal: %w: want one JSON object with at most %d signatures", signer.ErrFormat, signer.MaxSignatures)
	}
	return s, nil
}

// Encode gives the bytes of a seal file.
func (s Seal) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// Signers names the root keys, each once, whose signatures in the seal vouch for the commit. A wrong signature is an
// error, not passed over.
func (s Seal) Signers(root *signer.Root, commit string) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	for _, armoured := range s.Signatures {
		by, err := root.VerifyRequest(NamespaceSeal, SealStatement(root.Network, commit), []byte(armoured), signer.RoleRoot)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", SealPath(commit), err)
		}
		if !seen[by.Key.ID()] {
			seen[by.Key.ID()] = true
			names = append(names, by.Name)
		}
	}
	return names, nil
}
