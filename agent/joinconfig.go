package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/peermap"
)

// JoinConfig says how a host proves an identity in a zone: at most one of the sources of tokens. Without one a person
// brings the token: `apex join`.
type JoinConfig struct {
	// Issuer is a name in Network.spec.issuers; empty if there is but one.
	Issuer string `yaml:"issuer,omitempty"`
	// IssuerURL, Audience and ClientID, where they are given, must be what the controller says of the issuer: see enrol.Expect.
	// clientCredentials needs IssuerURL, since the secret goes there.
	IssuerURL string `yaml:"issuerURL,omitempty"`
	Audience  string `yaml:"audience,omitempty"`
	ClientID  string `yaml:"clientID,omitempty"`
	// TokenFile is read anew for each enrolment, and watched: whoever renews it replaces it.
	TokenFile string `yaml:"tokenFile,omitempty"`
	// TokenEnv is an environment variable of the agent.
	TokenEnv string `yaml:"tokenEnv,omitempty"`
	// TokenCommand is a program with its arguments that prints a token; see token.Command for what it finds in its
	// environment.
	TokenCommand []string `yaml:"tokenCommand,omitempty"`
	// GitHub asks GitHub Actions, inside a job.
	GitHub            bool                     `yaml:"github,omitempty"`
	ClientCredentials *ClientCredentialsConfig `yaml:"clientCredentials,omitempty"`
	// Routes and Relay ask for what the rule may allow.
	Routes []string `yaml:"routes,omitempty"`
	Relay  bool     `yaml:"relay,omitempty"`
	// Ephemeral gives the binding back when the agent stops. A rule may say so for everybody.
	Ephemeral bool `yaml:"ephemeral,omitempty"`
}

// ClientCredentialsConfig is a client of the issuer that has a secret (RFC 6749, section 4.4).
type ClientCredentialsConfig struct {
	ClientID string `yaml:"clientID"`
	// ClientSecretFile must have mode 0600.
	ClientSecretFile string   `yaml:"clientSecretFile"`
	Scopes           []string `yaml:"scopes,omitempty"`
	// Audience is sent as `audience`, for providers that want it.
	Audience string `yaml:"audience,omitempty"`
}

func (j *JoinConfig) validate(field string, bad func(field, format string, args ...any)) {
	if j == nil {
		return
	}
	if j.Issuer != "" && !isName(j.Issuer) {
		bad(field+".issuer", "%q is not a name", j.Issuer)
	}
	var given []string
	for name, is := range map[string]bool{
		"tokenFile": j.TokenFile != "", "tokenEnv": j.TokenEnv != "", "tokenCommand": len(j.TokenCommand) > 0,
		"github": j.GitHub, "clientCredentials": j.ClientCredentials != nil,
	} {
		if is {
			given = append(given, name)
		}
	}
	if slices.Sort(given); len(given) > 1 {
		bad(field, "%s are given; want one source of tokens, or none if a person brings them", strings.Join(given, " and "))
	}
	if j.TokenFile != "" && !filepath.IsAbs(j.TokenFile) {
		bad(field+".tokenFile", "%q is not an absolute path", j.TokenFile)
	}
	if len(j.TokenCommand) > 0 && !filepath.IsAbs(j.TokenCommand[0]) {
		bad(field+".tokenCommand", "%q is not an absolute path", j.TokenCommand[0])
	}
	if c := j.ClientCredentials; c != nil && (c.ClientID == "" || !filepath.IsAbs(c.ClientSecretFile)) {
		bad(field+".clientCredentials", "want clientID, and clientSecretFile as an absolute path")
	}
	if j.ClientCredentials != nil && j.IssuerURL == "" {
		bad(field+".issuerURL", "is missing: with clientCredentials the secret goes there, so it is not for the controller to say")
	}
	if err := claims.CheckIssuer(j.IssuerURL); j.IssuerURL != "" && err != nil {
		bad(field+".issuerURL", "%v", err)
	}
	if _, err := j.routes(); err != nil {
		bad(field+".routes", "%v", err)
	}
}

func (j *JoinConfig) routes() ([]netip.Prefix, error) {
	out := []netip.Prefix{}
	for _, text := range j.Routes {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("%q is not a prefix without host bits, for example 10.20.0.0/16", text)
		}
		out = append(out, p)
	}
	if len(out) > protocol.MaxEnrolRoutes {
		return nil, fmt.Errorf("%d prefixes, at most %d can be asked for", len(out), protocol.MaxEnrolRoutes)
	}
	slices.SortFunc(out, peermap.ComparePrefixes)
	return slices.Compact(out), nil
}

// ask is what the host asks for; valid configurations only.
func (j *JoinConfig) ask() enrol.Ask {
	if j == nil {
		return enrol.Ask{}
	}
	routes, _ := j.routes() // Validate has refused what is wrong
	return enrol.Ask{Issuer: j.Issuer, Routes: routes, Relay: j.Relay}
}

// expect is what the issuer must be.
func (j *JoinConfig) expect() enrol.Expect {
	if j == nil {
		return enrol.Expect{}
	}
	return enrol.Expect{URL: j.IssuerURL, Audience: j.Audience, ClientID: j.ClientID}
}

// source is where the host's tokens come from; nil if a person brings them.
func (j *JoinConfig) source(client *oidcclient.Client, logger *slog.Logger) token.Source {
	switch {
	case j == nil:
		return nil
	case j.TokenFile != "":
		return token.File{Path: j.TokenFile}
	case j.TokenEnv != "":
		return token.Env{Variable: j.TokenEnv}
	case len(j.TokenCommand) > 0:
		return token.Command{Argv: j.TokenCommand, Audience: j.Audience, Logger: logger}
	case j.GitHub:
		return token.GitHub{}
	case j.ClientCredentials != nil:
		c := j.ClientCredentials
		return token.ClientCredentials{
			Client: client, ClientID: c.ClientID, SecretFile: c.ClientSecretFile, Scopes: c.Scopes, Audience: c.Audience,
		}
	}
	return nil
}
