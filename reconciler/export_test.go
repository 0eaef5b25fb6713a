package reconciler

// SetSteps sets functions called before and after every step on the host, for fault injection.
func (e *Engine) SetSteps(before, after func(Change)) { e.beforeStep, e.afterStep = before, after }

// AliasOf gives the ownership mark.
func AliasOf(owner string) string { return aliasOf(owner) }

// BetweenPasses runs f while no operation of the engine is under way.
func (e *Engine) BetweenPasses(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}
