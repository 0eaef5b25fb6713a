//go:build linux

package lab

import "time"

// SetCloseLimit shortens how long Close waits, for tests of what it says when it waits in vain.
func (l *Lab) SetCloseLimit(d time.Duration) { l.closeLimit = d }
