// Package idp gives tests, the lab and the demo OpenID providers to run against.
package idp
