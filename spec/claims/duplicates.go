package claims

import (
	"bytes"
	"encoding/json"
	"errors"
)

// noDuplicates refuses an object, at any depth, that has a name twice: some readers would take the first, others the last.
// The payload is known to be JSON.
func noDuplicates(payload []byte) error {
	dec := json.NewDecoder(bytes.NewReader(payload))
	type level struct {
		names map[string]bool // nil for a list
		value bool            // the next token is a value, not a name
	}
	var open []level
	for {
		t, err := dec.Token()
		if err != nil {
			return nil // the end: the syntax was checked before
		}
		var top *level
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		if name, ok := t.(string); ok && top != nil && top.names != nil && !top.value {
			if top.names[name] {
				return errors.New("the token has a claim twice")
			}
			top.names[name], top.value = true, true
			continue
		}
		if top != nil {
			top.value = false
		}
		switch t {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}
