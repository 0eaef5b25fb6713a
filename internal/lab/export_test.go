//go:build linux

package lab

import "time"

// SetLeakLimit shortens how long Close waits for a namespace to go, for tests of what it says when it waits in vain. Its other
// steps keep their time.
func (l *Lab) SetLeakLimit(d time.Duration) { l.leakLimit = d }
