package tokens

import "github.com/apex-network/apex/spec/claims"

// ID gives what Verified.ID would be for a token of the issuer, without verifying anything, or "" if it cannot be read. It
// is for finding out whether a request was answered before; whoever makes an ID up finds what is not theirs.
func ID(issuerURL, raw string) string {
	d, err := parse(raw)
	if err != nil {
		return ""
	}
	all, err := claims.Decode(d.payload)
	if err != nil {
		return ""
	}
	return replayID(issuerURL, all, d.signed)
}

// replayID is by `jti` where there is one. Where there is none it is by what was signed, not by the token: of one token
// there are several spellings, by the mathematics of its signature.
func replayID(issuerURL string, all map[string]any, signed string) string {
	if jti, _ := all["jti"].(string); jti != "" {
		return digest("jti", issuerURL, jti)
	}
	return digest("signed", signed)
}

// IssuerOf gives the `iss` of a token that nobody has verified: it only says which issuer to verify it against. Errors:
// *Refused.
func IssuerOf(raw string) (string, error) {
	d, err := parse(raw)
	if err != nil {
		return "", err
	}
	all, err := claims.Decode(d.payload)
	if err != nil {
		return "", refuse(ErrMalformed, "", "%v", err)
	}
	iss, ok := all["iss"].(string)
	if !ok || iss == "" {
		return "", refuse(ErrMalformed, "iss", "want a string")
	}
	return iss, nil
}
