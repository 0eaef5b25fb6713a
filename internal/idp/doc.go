// Package idp gives tests, the lab and the demo OpenID providers to sign in with, and a person to do it.
//
//	RunDex      the real Dex 2.45.1, built from its module in folder dex; people in its password database or in LDAP
//	RunSlapd    the real OpenLDAP server of Debian, as Dex's directory
//	RunZitadel  the real provider library of github.com/zitadel/oidc with its example pages, built from folder zitadel
//	RunIssuer   a simulated provider in the test's process: any claims, defects and faults, on request
//	GitHubEnv   a simulation of the endpoint that gives a job of GitHub Actions its token (a method of Issuer)
//	Person      somebody with a browser, who logs in and grants access on the pages of the real ones
//
// The Run functions are for tests; each has a Start twin for other programs. Package onlab puts providers on hosts of a
// lab.
//
// # Promise
//
// The real providers run unchanged but for what their doc comments name, as programs of their own modules, so that none
// of their dependencies becomes one of Apex. They are built once per cache (see Prepare). Each listens where it is
// told, keeps its files in its folder, has answered before a Start function returns, and dies with the program that
// started it. What is missing on the machine is an error that names it; nothing is skipped.
//
// # What the providers do with a nonce
//
// The tests of this package hold this table to be true:
//
//	                                                Dex 2.45.1       zitadel/oidc 3.51.17
//	nonce in the authorization request (code)       in the token     in the token
//	nonce in the device authorization request       ignored          ignored
//	nonce in the refresh request                    ignored          ignored
//	nonce in the password grant's request           in the token     no such grant
//	refreshed token after a code flow               keeps the nonce  has none
//	refreshed token after a device flow             has none         has none
//	jti in the ID token                             never            never
//	sub                                             coded, see below the user's ID
//	groups at a refresh                             of now           of now (by our storage)
//	client credentials                              no such grant    an access token (JWT with jti), no ID token
//	a refusal in a device flow                      code stays       access_denied
//	                                                pending
//
// So no proof that the client binds into a nonce survives a device flow with either, and no ID token of either can be
// told from its copy by a jti.
//
// Claims of an ID token, all scopes asked for:
//
//	Dex      iss sub aud exp iat at_hash c_hash email email_verified groups name preferred_username;
//	         nonce if given; azp with several audiences; federated_claims on request. No auth_time, amr, nbf, sid.
//	zitadel  iss sub aud exp iat at_hash azp client_id email email_verified groups name given_name family_name
//	         preferred_username locale; in a code flow also auth_time, amr, c_hash, and nonce if given.
//
// The sub of Dex is the base64 of a protocol buffer of user ID and connector ID: stable for a person of one connector,
// another one for the same person behind another. Its audience is the client, unless the client asks with a scope
// audience:server:client_id:<other>, and other trusts it. It refuses scopes that it does not know.
//
// # What go-oidc leaves to us
//
// TestWhatGoOIDCLetsPass lists it defect by defect. As go-oidc v3.21.0 is usually set up, it lets pass: a token without
// jti or sub, duplicate claims (the last one counts) and claims in another case (AUD for aud), any typ, a token in JWS
// JSON serialization or with white space around it, an iat of tomorrow, any lifetime, any size, one fitting audience
// among others. It allows nbf five minutes of clock difference and exp none. It reads discovery and keys without a
// limit, with the time-out of the client it is given.
package idp
