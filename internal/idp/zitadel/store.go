package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const groupsScope = "groups"

// people looks users up in the configuration file, each time.
type people struct{ file string }

func (p people) find(match func(user) bool) (user, bool) {
	config, err := read(p.file)
	if err != nil {
		return user{}, false
	}
	i := slices.IndexFunc(config.Users, match)
	if i < 0 {
		return user{}, false
	}
	return config.Users[i], true
}

func (p people) example(match func(user) bool) *storage.User {
	u, ok := p.find(match)
	if !ok {
		return nil
	}
	return &storage.User{
		ID: u.ID, Username: u.Username, Password: u.Password, FirstName: u.Username, LastName: "Example", Email: u.Email,
		EmailVerified: true,
	}
}

func (p people) GetUserByID(id string) *storage.User {
	return p.example(func(u user) bool { return u.ID == id })
}

func (p people) GetUserByUsername(name string) *storage.User {
	return p.example(func(u user) bool { return u.Username == name })
}

func (p people) ExampleClientID() string { return "service" }

// store is the example's storage with our additions.
type store struct {
	*storage.Storage
	people  people
	keys    *keys
	clients map[string]*storage.Client
	job     configuration
}

// CompleteDeviceAuthorization is told the user's name, where the other flows take the user's ID as subject.
func (s *store) CompleteDeviceAuthorization(ctx context.Context, userCode, username string) error {
	u, ok := s.people.find(func(u user) bool { return u.Username == username })
	if !ok {
		return errors.New("user not found")
	}
	return s.Storage.CompleteDeviceAuthorization(ctx, userCode, u.ID)
}

// CreateAccessAndRefreshTokens tells the example, which knows no device flow, whose refresh token it makes.
func (s *store) CreateAccessAndRefreshTokens(
	ctx context.Context, req op.TokenRequest, current string,
) (accessID, refresh string, expires time.Time, err error) {
	if device, ok := req.(*op.DeviceAuthorizationState); ok {
		req = &storage.AuthRequest{ApplicationID: device.ClientID, UserID: device.Subject, Scopes: device.Scopes}
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, req, current)
}

// SetUserinfoFromRequest adds the groups of now to an ID token, at the login and at each refresh.
func (s *store) SetUserinfoFromRequest(
	ctx context.Context, info *oidc.UserInfo, req op.IDTokenRequest, scopes []string,
) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, req, scopes); err != nil {
		return err
	}
	u, ok := s.people.find(func(u user) bool { return u.ID == req.GetSubject() })
	if !ok {
		return errors.New("user not found")
	}
	if slices.Contains(scopes, groupsScope) {
		info.AppendClaims(groupsScope, u.Groups)
	}
	return nil
}

// GetClientByClientID adds to the example's clients.
func (s *store) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := s.clients[id]
	if !ok {
		return nil, errors.New("client not found")
	}
	return s.extend(c), nil
}

func (s *store) extend(c *storage.Client) client {
	lifetime := time.Duration(s.job.IDTokenSeconds) * time.Second
	return client{Client: c, job: c.GetID() == s.job.JobClient, lifetime: lifetime}
}

func (s *store) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if id != s.job.JobClient || subtle.ConstantTimeCompare([]byte(secret), []byte(s.job.JobSecret)) != 1 {
		return nil, errors.New("wrong client or secret")
	}
	return s.extend(s.clients[id]), nil
}

func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{id}, Scopes: scopes}, nil
}

func (s *store) SigningKey(context.Context) (op.SigningKey, error) { return s.keys.current() }

func (s *store) KeySet(context.Context) ([]op.Key, error) {
	k, err := s.keys.current()
	if err != nil {
		return nil, err
	}
	return []op.Key{public{k}}, nil
}

func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	k, err := s.keys.current()
	if err != nil {
		return nil, err
	}
	return []jose.SignatureAlgorithm{k.algorithm}, nil
}

// client is one of the example's, with the grants and claims that our tests need.
type client struct {
	*storage.Client
	job      bool
	lifetime time.Duration
}

func (c client) GrantTypes() []oidc.GrantType {
	if c.job {
		return []oidc.GrantType{oidc.GrantTypeClientCredentials}
	}
	return append(c.Client.GrantTypes(), oidc.GrantTypeDeviceCode)
}

// AccessTokenType is a JWT for a job, which gets no ID token.
func (c client) AccessTokenType() op.AccessTokenType {
	if c.job {
		return op.AccessTokenTypeJWT
	}
	return c.Client.AccessTokenType()
}

func (c client) IDTokenLifetime() time.Duration       { return c.lifetime }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) IsScopeAllowed(scope string) bool     { return scope == groupsScope }

// keys makes a signing key for each generation that the configuration file names, and forgets the one before.
type keys struct {
	file string

	mu  sync.Mutex
	key *signingKey
}

type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func (k *signingKey) ID() string                                  { return k.id }
func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k *signingKey) Key() any                                    { return k.private }

// public is the published half.
type public struct{ *signingKey }

func (p public) Algorithm() jose.SignatureAlgorithm { return p.algorithm }
func (p public) Use() string                        { return "sig" }
func (p public) Key() any                           { return p.private.Public() }

func (ks *keys) current() (*signingKey, error) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	config, err := read(ks.file)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%s-%d", config.Algorithm, config.Generation)
	if ks.key != nil && ks.key.id == id {
		return ks.key, nil
	}
	private, err := generate(config.Algorithm)
	if err != nil {
		return nil, err
	}
	ks.key = &signingKey{id: id, algorithm: jose.SignatureAlgorithm(config.Algorithm), private: private}
	return ks.key, nil
}

func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "RS256":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	default:
		return nil, fmt.Errorf("unknown algorithm %q", algorithm)
	}
}
