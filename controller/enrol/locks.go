package enrol

import (
	"context"
	"sync"
	"time"
)

// keyed is a mutex per key, kept while it is held or waited for.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	mu    sync.Mutex
	users int
}

// lock takes the key's lock and gives the function that frees it.
func (k *keyed) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l, ok := k.locks[key]
	if !ok {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}

// A crowd holds at most crowdSize at once by key; more wait, at most crowdWait.
const (
	crowdSize = 64
	crowdWait = 2 * time.Second
)

type crowd struct {
	mu     sync.Mutex
	places map[string]chan struct{} // bounded by the issuers that the network ever named
}

// enter takes a place and gives the function that frees it; false if there was none in time.
func (c *crowd) enter(ctx context.Context, key string) (leave func(), ok bool) {
	c.mu.Lock()
	if c.places == nil {
		c.places = map[string]chan struct{}{}
	}
	places, there := c.places[key]
	if !there {
		places = make(chan struct{}, crowdSize)
		c.places[key] = places
	}
	c.mu.Unlock()
	leave = func() { <-places }
	select {
	case places <- struct{}{}:
		return leave, true
	default:
	}
	timer := time.NewTimer(crowdWait)
	defer timer.Stop()
	select {
	case places <- struct{}{}:
		return leave, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}
