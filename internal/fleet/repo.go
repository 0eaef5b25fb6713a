//go:build linux

package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/go-git/go-git/v5"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/signer"
)

// Repo is a person's clone: a working tree with a remote, and the SSH key the person signs with. Its signatures are
// those of `git commit -S` with gpg.format=ssh.
type Repo struct {
	Dir string
	git *git.Repository
	key ssh.Signer
}

const branch = "main"

// newRepo makes a clone in dir and a bare remote that it pushes to.
func newRepo(dir, remote string, key ssh.Signer) (*Repo, error) {
	if _, err := git.PlainInitWithOptions(remote, &git.PlainInitOptions{Bare: true, InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName(branch)}}); err != nil {
		return nil, fmt.Errorf("make remote: %w", err)
	}
	r, err := git.PlainInitWithOptions(dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName(branch)}})
	if err != nil {
		return nil, fmt.Errorf("make clone: %w", err)
	}
	if _, err := r.CreateRemote(&gitconfig.RemoteConfig{Name: "origin", URLs: []string{remote}}); err != nil {
		return nil, fmt.Errorf("make clone: %w", err)
	}
	return &Repo{Dir: dir, git: r, key: key}, nil
}

// Write puts a file into the working tree.
func (r *Repo) Write(path, content string) error {
	full := filepath.Join(r.Dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return os.WriteFile(full, []byte(content), 0o644)
}

// Remove deletes a file from the working tree.
func (r *Repo) Remove(path string) error {
	return os.Remove(filepath.Join(r.Dir, filepath.FromSlash(path)))
}

// Commit commits the whole working tree, signed.
func (r *Repo) Commit(message string) (string, error) { return r.CommitAs(message, r.key) }

// CommitAs is Commit with another key; nil leaves the commit unsigned.
func (r *Repo) CommitAs(message string, key ssh.Signer) (string, error) {
	tree, err := r.git.Worktree()
	if err != nil {
		return "", err
	}
	if err := tree.AddWithOptions(&git.AddOptions{All: true}); err != nil {
		return "", fmt.Errorf("add: %w", err)
	}
	opt := &git.CommitOptions{Author: &object.Signature{Name: "Ada", Email: "ada@example.com", When: time.Now()}}
	if key != nil {
		opt.Signer = commitSigner{key}
	}
	hash, err := tree.Commit(message, opt)
	if err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	return hash.String(), nil
}

// Push pushes the branch. Force replaces what the remote has.
func (r *Repo) Push() error { return r.push("") }

// ForcePush is Push with the remote's history replaced.
func (r *Repo) ForcePush() error { return r.push("+") }

func (r *Repo) push(force string) error {
	ref := gitconfig.RefSpec(fmt.Sprintf("%srefs/heads/%s:refs/heads/%s", force, branch, branch))
	err := r.git.Push(&git.PushOptions{RemoteName: "origin", RefSpecs: []gitconfig.RefSpec{ref}})
	if err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
		return fmt.Errorf("push: %w", err)
	}
	return nil
}

// Switch moves to a branch, made at HEAD if it is new, and takes the working tree along.
func (r *Repo) Switch(name string) error {
	tree, err := r.git.Worktree()
	if err != nil {
		return err
	}
	ref := plumbing.NewBranchReferenceName(name)
	_, err = r.git.Reference(ref, false)
	return tree.Checkout(&git.CheckoutOptions{Branch: ref, Create: err != nil, Keep: err != nil})
}

// FastForward moves the main branch to another branch's tip, as merging a pull request by rebase does, and switches to it.
func (r *Repo) FastForward(from string) error {
	tip, err := r.git.Reference(plumbing.NewBranchReferenceName(from), true)
	if err != nil {
		return err
	}
	if err := r.git.Storer.SetReference(plumbing.NewHashReference(plumbing.NewBranchReferenceName(branch), tip.Hash())); err != nil {
		return err
	}
	return r.Switch(branch)
}

// Reset moves the branch and the working tree to a commit.
func (r *Repo) Reset(commit string) error {
	tree, err := r.git.Worktree()
	if err != nil {
		return err
	}
	return tree.Reset(&git.ResetOptions{Commit: plumbing.NewHash(commit), Mode: git.HardReset})
}

// Head is the commit that HEAD stands at.
func (r *Repo) Head() (string, error) {
	ref, err := r.git.Head()
	if err != nil {
		return "", err
	}
	return ref.Hash().String(), nil
}

// commitSigner signs commits as git does with gpg.format=ssh.
type commitSigner struct{ key ssh.Signer }

func (s commitSigner) Sign(message io.Reader) ([]byte, error) {
	b, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	return signer.SSHSign(s.key, "git", b)
}

// NewSSHKey makes an Ed25519 key in OpenSSH's format at path.
func NewSSHKey(path string) (ssh.Signer, error) {
	key, _, err := newSSHKey(path)
	return key, err
}

func newSSHKey(path string) (ssh.Signer, string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, "", err
	}
	key, err := ssh.NewSignerFromKey(private)
	return key, path, err
}

// Parent is the first parent of a commit.
func (r *Repo) Parent(commit string) (string, error) {
	c, err := r.git.CommitObject(plumbing.NewHash(commit))
	if err != nil {
		return "", err
	}
	if len(c.ParentHashes) == 0 {
		return "", fmt.Errorf("commit %s has no parent", commit)
	}
	return c.ParentHashes[0].String(), nil
}

// Read gives a file of the working tree.
func (r *Repo) Read(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(r.Dir, filepath.FromSlash(path)))
	return string(b), err
}
