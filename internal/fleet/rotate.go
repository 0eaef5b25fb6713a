//go:build linux

package fleet

import (
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

// Rotate writes the next version of the trust root into the clone, changed by edit and signed by the maintainer, who
// holds the root role. It commits nothing.
func (f *Fleet) Rotate(edit func(*spec.TrustRootSpec)) error {
	current, err := trustdir.RootFromSpec(f.root.Spec, f.Network)
	if err != nil {
		return err
	}
	next := f.root
	next.Spec.Version++
	edit(&next.Spec)
	root, err := trustdir.RootFromSpec(next.Spec, f.Network)
	if err != nil {
		return err
	}
	envelope, err := f.signRoot(current, root)
	if err != nil {
		return err
	}
	text, err := spec.Marshal(next)
	if err != nil {
		return err
	}
	if err := f.Repo.Write(trustdir.RootPath, string(text)); err != nil {
		return err
	}
	f.root = next
	return f.Repo.Write(trustdir.EnvelopePath(root.Version), envelope)
}

// signRoot signs the successor of current (nil: the first root).
func (f *Fleet) signRoot(current, next *signer.Root) (string, error) {
	env, err := trustdir.Propose(current, next)
	if err != nil {
		return "", err
	}
	if env, err = trustdir.Sign(env, current, f.Maintainer); err != nil {
		return "", err
	}
	data, err := env.Encode()
	return string(data), err
}
