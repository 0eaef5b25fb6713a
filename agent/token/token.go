// Package token gets ID tokens for a host without a person: from a file that somebody else renews, from the environment,
// from a command, from GitHub Actions, from client credentials, from a refresh token.
//
// It verifies nothing: the controller does. It bounds what it reads and how long it waits, and neither logs nor quotes a
// token or a secret.
package token

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/apex-network/apex/internal/oidcclient"
)

// Need is what the token is for.
type Need struct {
	// Issuer is the issuer's URL, Audience what it must be for.
	Issuer   string
	Audience string
	ClientID string
	Scopes   []string
	// Commitment binds the token to the node's keys: as its nonce, or as the audience BoundAudience gives.
	Commitment string
}

// BoundAudience is the audience of a token whose workload may choose it; without a commitment, the plain one.
func (n Need) BoundAudience() string {
	if n.Commitment == "" {
		return n.Audience
	}
	return n.Audience + ":" + n.Commitment
}

// Source gives a token when asked. Each call may give another one.
type Source interface {
	Token(ctx context.Context, need Need) (string, error)
	// Name says where tokens come from, for people.
	Name() string
}

// Errors that callers tell apart; everything else may be better at the next attempt.
var (
	// ErrSpent: this source will give no token any more until a person does something.
	ErrSpent = errors.New("signing in again is needed")
	// ErrNone: there is no token where one should be.
	ErrNone = errors.New("there is no token")
)

// clean checks that text is what an ID token looks like.
func clean(where, text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", fmt.Errorf("%w: %s is empty", ErrNone, where)
	case len(text) > oidcclient.MaxTokenBytes:
		return "", fmt.Errorf("%s holds %d bytes, a token has at most %d", where, len(text), oidcclient.MaxTokenBytes)
	case strings.Count(text, ".") != 2 || strings.ContainsAny(text, " \t\r\n\"{}"):
		return "", fmt.Errorf("%s does not hold an ID token: want three parts with dots between, and nothing else", where)
	}
	return text, nil
}
