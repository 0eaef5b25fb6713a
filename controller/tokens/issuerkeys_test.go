package tokens_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/jwk"
)

func TestIssuerKeys(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "RS256"})
	for _, algorithm := range []string{"PS256", "ES256", "EdDSA"} {
		if err := i.AddKey(algorithm); err != nil {
			t.Fatal(err)
		}
	}
	keys, skipped, err := tokens.IssuerKeys(t.Context(), tokens.Options{}, i.Issuer())
	if err != nil || len(keys) != 3 || len(skipped) != 1 || !errors.Is(skipped[0], jwk.ErrKey) {
		t.Fatalf("%d keys, %v, %v", len(keys), skipped, err)
	}
	for _, algorithm := range []string{jwk.RS256, jwk.ES256, jwk.EdDSA} {
		if !slices.ContainsFunc(keys, func(k jwk.Key) bool { return k.Algorithm == algorithm }) {
			t.Errorf("no %s", algorithm)
		}
	}
	if _, _, err := tokens.IssuerKeys(t.Context(), tokens.Options{}, "http://ci.example"); !errors.Is(err, claims.ErrIssuer) {
		t.Error(err)
	}
	i.Break(idp.Keys, idp.Endless())
	if _, _, err := tokens.IssuerKeys(t.Context(), tokens.Options{}, i.Issuer()); err == nil {
		t.Error("an endless answer is read")
	}
}
