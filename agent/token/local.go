package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/apex-network/apex/internal/oidcclient"
)

// commandTime bounds a token command.
const commandTime = 30 * time.Second

// drainTime bounds how long what a program printed is read after its end: a child of it may hold the pipe open. It is ample,
// because on a busy host a token would be cut short otherwise.
const drainTime = 10 * time.Second

// File reads the token from a file each time it is needed, as Kubernetes, Vault or a job scheduler writes it. See Watch.
type File struct{ Path string }

// Name says which file.
func (f File) Name() string { return "file " + f.Path }

// Token reads the file.
func (f File) Token(context.Context, Need) (string, error) {
	text, err := readFile(f.Path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNone, err)
	}
	return clean("the file "+f.Path, string(text))
}

// readFile reads a little more than the longest token, so that what is too long shows.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, oidcclient.MaxTokenBytes+64))
}

// Env reads the token from an environment variable of the agent's own process.
type Env struct{ Variable string }

// Name says which variable.
func (e Env) Name() string { return "environment variable " + e.Variable }

// Token reads the variable.
func (e Env) Token(context.Context, Need) (string, error) {
	return clean("the environment variable "+e.Variable, os.Getenv(e.Variable))
}

// Command runs a program that prints the token. It is started without a shell, has commandTime, and finds in its
// environment APEX_COMMITMENT (to ask for as the nonce), APEX_AUDIENCE (<audience>:<commitment>, to ask for as the
// audience) and APEX_ISSUER; and APEX_PLAIN_AUDIENCE if Audience is given. What the controller alone calls the audience is
// not given out without the commitment behind it: a stolen one could name somebody else's.
type Command struct {
	Argv     []string
	Audience string
	// Logger gets the last line of what the program complains of: that may name hosts and secrets of this place, and the error
	// goes to the controller. Nil drops it.
	Logger *slog.Logger
}

// Name says which program.
func (c Command) Name() string { return "command " + c.Argv[0] }

// Token runs the program. Neither what it printed nor what it complained of is in the error.
func (c Command) Token(ctx context.Context, need Need) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), "APEX_COMMITMENT="+need.Commitment, "APEX_AUDIENCE="+need.BoundAudience(),
		"APEX_ISSUER="+need.Issuer)
	if c.Audience != "" {
		cmd.Env = append(cmd.Env, "APEX_PLAIN_AUDIENCE="+c.Audience)
	}
	out, complaints := &bounded{most: oidcclient.MaxTokenBytes + 64}, &bounded{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, complaints
	cmd.WaitDelay = drainTime
	endTogether(cmd)
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("the %s did not end within %s", c.Name(), commandTime)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		hint := ""
		if line := lastLine(complaints.String()); line != "" && c.Logger != nil {
			c.Logger.Warn("the token command complained", "command", c.Argv[0], "error", err, "said", line)
			hint = "; what it complained of is in the log of this host"
		}
		return "", fmt.Errorf("the %s failed: %w%s", c.Name(), err, hint)
	case out.over:
		return "", fmt.Errorf("the %s printed more than a token", c.Name())
	}
	return clean("what the "+c.Name()+" printed", out.String())
}

// lastLine is the end of what a program complained of, bounded.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(text, "?")), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	if line == "" {
		return ""
	}
	words := strings.Fields(line)
	for i, word := range words {
		if strings.Contains(word, "eyJ") { // how every JWT begins; a shell that traces itself (set -x) shows what it handles
			words[i] = "[token]"
		}
	}
	line = strings.Join(words, " ")
	if len(line) > 200 {
		line = strings.ToValidUTF8(line[:200], "") + "…"
	}
	return line
}

// bounded keeps the first bytes and drops the rest, so that the writer does not block.
// It is no bytes.Buffer, whose ReadFrom would go past the bound.
type bounded struct {
	text []byte
	most int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.most - len(b.text)
	b.over = b.over || len(p) > room
	b.text = append(b.text, p[:min(len(p), max(room, 0))]...)
	return len(p), nil
}

func (b *bounded) String() string { return string(b.text) }
