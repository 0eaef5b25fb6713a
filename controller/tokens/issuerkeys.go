package tokens

import (
	"context"
	"fmt"

	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/jwk"
)

// IssuerKeys asks an issuer for its keys, as a trust root lists them: those of the algorithms that agents verify, and in
// skipped why others are left out. What it gives is the issuer's word now, over TLS: people compare it and sign it.
func IssuerKeys(ctx context.Context, o Options, issuerURL string) (keys []jwk.Key, skipped []error, err error) {
	if err := claims.CheckIssuer(issuerURL); err != nil {
		return nil, nil, err
	}
	verifier, err := New(o)
	if err != nil {
		return nil, nil, err
	}
	defer verifier.Close()
	ctx, cancel := context.WithTimeout(ctx, verifier.opts.Timeout)
	defer cancel()
	_, found, err := verifier.provider(issuerURL).fetch(ctx, "")
	if err != nil {
		return nil, nil, fmt.Errorf("issuer %s: %w", issuerURL, err)
	}
	for _, k := range found {
		text, err := k.MarshalJSON()
		if err != nil {
			return nil, nil, fmt.Errorf("issuer %s: key %.80q: %w", issuerURL, k.KeyID, err)
		}
		key, err := jwk.Parse(text)
		if err != nil {
			skipped = append(skipped, fmt.Errorf("key %.80q: %w", k.KeyID, err))
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, skipped, fmt.Errorf("issuer %s: it has no key that signs %s, %s or %s", issuerURL, jwk.RS256, jwk.ES256, jwk.EdDSA)
	}
	return keys, skipped, nil
}
