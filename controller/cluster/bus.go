package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Bus carries questions between replicas and their answers back, both of any size up to a limit.
type Bus interface {
	// Ask gives the answer of whoever listens on subject, of at most limit bytes. Errors: ErrNobody.
	Ask(ctx context.Context, subject string, question []byte, limit int) ([]byte, error)
	// Listen answers questions on subject, many at once, until the returned function is called.
	Listen(subject string, answer func(ctx context.Context, question []byte) []byte) (stop func(), err error)
}

// ErrNobody says that nobody answers: the replica has ended, or cannot be reached.
var ErrNobody = errors.New("no replica answers")

// errUndelivered says, beside ErrNobody, that the question reached nobody: it may be asked again.
var errUndelivered = errors.New("nobody listens")

// Sizes and times of the NATS bus. A server's default limit for one message is 1 MiB.
const (
	maxQuestion = 512 << 10
	partBytes   = 256 << 10
	// While an answer is being worked on, its author says so every aliveInterval; who hears nothing for patience gives up.
	aliveInterval = time.Second
	patience      = 4 * time.Second
	// answerTimeout bounds the work on one question.
	answerTimeout = 3 * time.Minute
	// maxAnswering bounds the questions worked on at once.
	maxAnswering = 1024
)

// partHeader says what a message of an answer is.
const (
	partHeader = "Apex-Part"
	partMore   = "more"
	partLast   = "last"
	partAlive  = "alive"
)

type natsBus struct {
	conn     *nats.Conn
	patience time.Duration
}

// NewBus speaks over a NATS connection.
func NewBus(conn *nats.Conn) Bus { return natsBus{conn, patience} }

func (b natsBus) Ask(ctx context.Context, subject string, question []byte, limit int) ([]byte, error) {
	if len(question) > maxQuestion {
		return nil, fmt.Errorf("question of %d bytes, limit %d", len(question), maxQuestion)
	}
	inbox := b.conn.NewRespInbox()
	sub, err := b.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	if err := sub.SetPendingLimits(-1, limit+partBytes); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	if err := b.conn.PublishRequest(subject, inbox, question); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	var answer []byte
	for {
		m, err := nextWithin(ctx, sub, b.patience)
		if err != nil {
			return nil, err
		}
		if len(answer)+len(m.Data) > limit {
			return nil, fmt.Errorf("answer of more than %d bytes", limit)
		}
		answer = append(answer, m.Data...)
		switch m.Header.Get(partHeader) {
		case partLast:
			return answer, nil
		case partMore, partAlive:
		default:
			return nil, fmt.Errorf("%w: %s", ErrNobody, m.Header.Get("Status"))
		}
	}
}

func nextWithin(ctx context.Context, sub *nats.Subscription, d time.Duration) (*nats.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	m, err := sub.NextMsgWithContext(waiting)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: %w", ErrNobody, errUndelivered)
	}
	return nil, fmt.Errorf("%w: %w", ErrNobody, err)
}

func (b natsBus) Listen(subject string, answer func(context.Context, []byte) []byte) (func(), error) {
	ctx, cancel := context.WithCancel(context.Background())
	slots := make(chan struct{}, maxAnswering)
	var working sync.WaitGroup
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) {
		select {
		case slots <- struct{}{}:
		default:
			return // the asker gives up by itself
		}
		working.Go(func() {
			defer func() { <-slots }()
			b.answer(ctx, m, answer)
		})
	})
	if err == nil {
		err = b.conn.FlushTimeout(b.patience) // the servers know of it now
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("listen on %s: %w", subject, err)
	}
	return func() {
		_ = sub.Unsubscribe() // fails only if the connection is closed
		if b.conn.IsConnected() {
			_ = b.conn.FlushTimeout(b.patience) // who asks from now on is told that nobody listens, and does not find out by waiting
		}
		cancel()
		working.Wait()
	}, nil
}

// answer works on one question.
func (b natsBus) answer(ctx context.Context, m *nats.Msg, f func(context.Context, []byte) []byte) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	done := make(chan []byte, 1)
	go func() { done <- f(ctx, m.Data) }()
	alive := time.NewTicker(aliveInterval)
	defer alive.Stop()
	for {
		select {
		case <-alive.C:
			b.part(m.Reply, partAlive, nil)
		case data := <-done:
			for len(data) > partBytes {
				b.part(m.Reply, partMore, data[:partBytes])
				data = data[partBytes:]
			}
			b.part(m.Reply, partLast, data)
			return
		}
	}
}

// part sends one message. A failure is that of the connection: the asker hears nothing more and gives up.
func (b natsBus) part(to, kind string, data []byte) {
	_ = b.conn.PublishMsg(&nats.Msg{Subject: to, Data: data, Header: nats.Header{partHeader: []string{kind}}})
}

// Memory is a Bus within one process, for tests.
type Memory struct {
	mu      sync.Mutex
	answers map[string]func(context.Context, []byte) []byte
}

// NewMemory gives a bus that nobody listens on.
func NewMemory() *Memory {
	return &Memory{answers: map[string]func(context.Context, []byte) []byte{}}
}

// Ask implements Bus.
func (m *Memory) Ask(ctx context.Context, subject string, question []byte, limit int) ([]byte, error) {
	m.mu.Lock()
	f := m.answers[subject]
	m.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("%w: %w", ErrNobody, errUndelivered)
	}
	if len(question) > maxQuestion {
		return nil, fmt.Errorf("question of %d bytes, limit %d", len(question), maxQuestion)
	}
	answer := f(ctx, question)
	if len(answer) > limit {
		return nil, fmt.Errorf("answer of more than %d bytes", limit)
	}
	return answer, ctx.Err()
}

// Listen implements Bus.
func (m *Memory) Listen(subject string, answer func(context.Context, []byte) []byte) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[subject] = answer
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.answers, subject)
	}, nil
}
