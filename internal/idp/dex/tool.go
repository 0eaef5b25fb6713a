// Package dex pins the version of Dex that the tests build and run. It is a module of its own, so that what Dex needs
// never becomes a dependency of Apex.
package dex
