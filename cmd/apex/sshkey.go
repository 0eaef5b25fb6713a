package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/apex-network/apex/internal/cli"
)

// openSSHKey gives a signer for an SSH key: a private key file, or a public key file (*.pub) whose private half the
// agent at $SSH_AUTH_SOCK holds, which is how hardware keys sign. The returned function ends the agent connection.
func openSSHKey(s cli.Streams, path string) (ssh.Signer, func(), error) {
	data, err := readInput(path, nil)
	if err != nil {
		return nil, nil, err
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		return agentKey(public)
	}
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		key, err = unlock(s, path, data)
	}
	if err != nil {
		return nil, nil, cli.WithCode(cli.Invalid, fmt.Errorf("SSH key %s: %w", path, err))
	}
	return key, func() {}, nil
}

// unlock asks for the passphrase of a private key, if there is somebody to ask.
func unlock(s cli.Streams, path string, data []byte) (ssh.Signer, error) {
	if !s.Interactive {
		return nil, errors.New("it has a passphrase and there is no terminal to ask for it; add it to ssh-agent and name its .pub file")
	}
	fmt.Fprintf(s.Err, "Passphrase for %s: ", path)
	phrase, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(s.Err)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	return ssh.ParsePrivateKeyWithPassphrase(data, phrase)
}

// agentKey finds the private half of public in the running ssh-agent.
func agentKey(public ssh.PublicKey) (ssh.Signer, func(), error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, nil, cli.WithCode(cli.Invalid, errors.New("this is a public key and no ssh-agent runs (SSH_AUTH_SOCK is not set); name the private key file"))
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh-agent: %w", err)
	}
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("ssh-agent: %w", err)
	}
	for _, k := range keys {
		if bytes.Equal(k.PublicKey().Marshal(), public.Marshal()) {
			return k, func() { conn.Close() }, nil
		}
	}
	conn.Close()
	return nil, nil, cli.WithCode(cli.Invalid, fmt.Errorf("ssh-agent does not hold %s; add it with ssh-add", ssh.FingerprintSHA256(public)))
}

// readSSHPublicKey reads the first key of a .pub file and gives it as type and base64, without the comment.
func readSSHPublicKey(path string) (string, error) {
	data, err := readInput(path, nil)
	if err != nil {
		return "", err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return "", fmt.Errorf("%s is not an SSH public key (name the .pub file): %w", path, err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
}
