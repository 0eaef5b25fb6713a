// Package oidcclient is the client side of OpenID Connect as far as a small host needs it: discovery and the token
// endpoint (RFC 6749), with the standard library alone. The agent renews its enrolment with it, and the command line
// builds its sign-in on the same requests.
//
// It promises that no provider can hurt its caller by how it answers: every body has a cap, every exchange a deadline,
// and redirects are refused at the token endpoint and never leave the host at discovery. Errors carry the provider's
// words (RFC 6749, section 5.2), cut to a line, and never a token, a code or a secret.
//
// Nothing here verifies an ID token: that is for the one who relies on it, the controller. Peek reads what a person may
// want to see.
package oidcclient
