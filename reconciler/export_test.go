package reconciler

// SetSteps sets functions called before and after every step on the host, for fault injection.
func (e *Engine) SetSteps(before, after func(Change)) { e.beforeStep, e.afterStep = before, after }

// AliasOf gives the ownership mark.
func AliasOf(owner string) string { return aliasOf(owner) }
