package compile

import (
	"fmt"
	"strings"
)

// maxFaults is how many faults an error lists; the rest is counted.
const maxFaults = 20

// faults collects what is wrong, so that one run names everything.
type faults struct{ list []string }

func (f *faults) addf(format string, args ...any) {
	f.list = append(f.list, fmt.Sprintf(format, args...))
}

func (f *faults) add(err error) {
	if err == nil {
		return
	}
	if list, ok := err.(*listed); ok {
		f.list = append(f.list, list.faults...)
		return
	}
	f.list = append(f.list, err.Error())
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &listed{f.list}
}

// listed is the error of several faults; it is an ErrInvalid.
type listed struct{ faults []string }

func (e *listed) Error() string {
	shown, rest := e.faults, ""
	if len(shown) > maxFaults {
		rest = fmt.Sprintf("\n  and %d more", len(shown)-maxFaults)
		shown = shown[:maxFaults]
	}
	if len(shown) == 1 {
		return ErrInvalid.Error() + ": " + shown[0]
	}
	return ErrInvalid.Error() + ":\n  " + strings.Join(shown, "\n  ") + rest
}

func (e *listed) Unwrap() error { return ErrInvalid }
