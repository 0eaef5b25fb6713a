package tokens

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"
)

// FuzzToken: a token that nobody has verified is taken apart and judged without harm, and what passes is for the issuer and
// the audience that were demanded, and in force.
func FuzzToken(f *testing.F) {
	segment := base64.RawURLEncoding.EncodeToString
	for _, s := range [][2]string{
		{`{"alg":"ES256","kid":"1"}`, `{"iss":"https://id.example","sub":"ann","aud":"apex","iat":1800000000,"exp":1800003600}`},
		{`{"alg":"RS256","typ":"at+jwt"}`, `{"iss":"https://id.example","aud":["a","apex"],"exp":1e99,"iat":-1,"nbf":"x"}`},
		{`{"alg":"none"}`, `{}`},
	} {
		f.Add(s[0], s[1])
	}
	now := time.Unix(1_800_000_100, 0)
	demand := Issuer{URL: "https://id.example", Audiences: []string{"apex"}, Leeway: time.Minute}
	f.Fuzz(func(t *testing.T, head, payload string) {
		_, _ = parse(head) // also what has no three segments
		d, err := parse(segment([]byte(head)) + "." + segment([]byte(payload)) + "." + segment(make([]byte, 64)))
		if err != nil {
			return
		}
		v, err := d.judge(demand, now)
		if err != nil {
			return
		}
		var said struct {
			Issuer string `json:"iss"`
		}
		if json.Unmarshal([]byte(payload), &said) != nil || said.Issuer != demand.URL || v.Subject == "" || v.ID == "" {
			t.Fatalf("accepted %q", payload)
		}
		if !v.Expires.After(now.Add(-demand.Leeway)) || v.Expires.Sub(v.Issued) > MaxLife+demand.Leeway {
			t.Fatalf("from %s to %s at %s", v.Issued, v.Expires, now)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQAB","e":"AQAB"},7]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := readKeys(body)
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys) {
			t.Fatalf("%d keys", len(keys))
		}
		for _, k := range keys {
			if !usable(k) || !k.IsPublic() {
				t.Fatalf("took a key %T", k.Key)
			}
		}
	})
}
