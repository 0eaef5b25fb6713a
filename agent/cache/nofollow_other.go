//go:build !unix

package cache

const noFollow = 0
