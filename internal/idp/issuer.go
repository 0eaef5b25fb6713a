package idp

import (
	_ "github.com/go-jose/go-jose/v4"
)
