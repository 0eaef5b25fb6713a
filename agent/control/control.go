// Package control is what the person at a host may ask of its agent over the local socket: to join a zone with an identity,
// to leave it, to take new keys. It has the messages, the client that the command line uses, and the handlers.
//
// The socket has mode 0600: who can open it is the agent's own user or root, who could as well edit the configuration. The
// messages are decoded strictly and bounded. None of them can widen what the signed generations give this host: to join is
// to ask the controller, and to rotate is to offer it new keys.
package control

import (
	"context"
	"net/netip"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// Paths on the socket. A request without a zone means the only zone of the host.
const (
	PathEnrolment = "/v1/enrolment" // GET ?zone=
	PathJoin      = "/v1/join"      // POST Join, gives Enrolment
	PathLeave     = "/v1/leave"     // POST Zone, gives Enrolment
	PathRotate    = "/v1/rotate"    // POST Zone begins or goes on, GET ?zone= only looks; both give Rotation
)

// Stage is where a zone stands on its way to a binding. Package enrol draws the transitions.
type Stage string

// The stages.
const (
	// Unbound: this host has no binding in the zone. A node whose keys stand in git stays so and needs none.
	Unbound Stage = "unbound"
	// Enrolling: the agent is getting a token or is asking the controller.
	Enrolling Stage = "enrolling"
	// Waiting: a maintainer has to approve.
	Waiting Stage = "waiting"
	// Bound: a binding is held and in force.
	Bound Stage = "bound"
	// Renewing: a binding is held and in force, and the next one is due.
	Renewing Stage = "renewing"
	// Expiring: a binding is held and in force, and nothing the agent can do by itself will replace it in time.
	Expiring Stage = "expiring"
	// Expired: the binding that is held has run out.
	Expired Stage = "expired"
)

// Enrolment is how a zone stands. It holds no token.
type Enrolment struct {
	Network string `json:"network"`
	Zone    string `json:"zone"`
	Node    string `json:"node"`
	// PublicKey and IdentityKey are this host's; Commitment is what a token for them must carry (protocol.Commitment).
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	Commitment  string      `json:"commitment"`
	Stage       Stage       `json:"stage"`
	// Message says what the last attempt met, in words; empty if all is well.
	Message string `json:"message"`
	// Lost says that the controller does not know the binding any more: the host is no member until it has another.
	Lost bool `json:"lost"`
	// Refused says that Message is a controller's word on the identity or its token: the same again would be refused again.
	Refused bool `json:"refused"`
	// WaitingID is the request's ID in stage waiting.
	WaitingID string `json:"waitingID"`
	// Binding is the one held; nil if there is none.
	Binding *Binding `json:"binding"`
	// Automatic says that the agent can renew the binding without a person. NextAttempt is when it will try; zero if never.
	Automatic   bool      `json:"automatic"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	// Info is what the controller says of how to join; nil if it could not be asked, for the reason in InfoError. Only
	// GET gives it.
	Info      *protocol.EnrolmentInfo `json:"info"`
	InfoError string                  `json:"infoError"`
	// InfoLater says that it may be asked again soon: the controller is not ready, as for some seconds after its start.
	InfoLater bool `json:"infoLater"`
}

// Binding is what a person wants to know of a binding.
type Binding struct {
	Issuer    string       `json:"issuer"`
	Subject   string       `json:"subject"`
	Username  string       `json:"username"`
	Groups    []string     `json:"groups"`
	Addresses []netip.Addr `json:"addresses"`
	// Rule is the member rule that let the node in, as name (file:line), and Commit the commit it stood in.
	Rule      string    `json:"rule"`
	Commit    string    `json:"commit"`
	Ephemeral bool      `json:"ephemeral"`
	Issued    time.Time `json:"issued"`
	Expires   time.Time `json:"expires"`
}

// Join asks the agent to enrol this host with a token that a person got.
type Join struct {
	Zone string `json:"zone"`
	// Issuer is its name in Network.spec.issuers. IDToken should carry Enrolment.Commitment as its nonce.
	Issuer  string `json:"issuer"`
	IDToken string `json:"idToken"`
	// RefreshToken, if any, lets the agent renew the binding by itself: it is kept in a file that only the agent can
	// read. TokenEndpoint (https) and ClientID say where and as whom it is used.
	RefreshToken  string `json:"refreshToken"`
	TokenEndpoint string `json:"tokenEndpoint"`
	ClientID      string `json:"clientID"`
	// ClientSecret belongs to ClientID, for providers that give one even to programs that cannot keep it.
	ClientSecret string `json:"clientSecret"`
	// Routes and Relay ask for what the rule may allow; they replace those of the configuration if given.
	Routes []netip.Prefix `json:"routes"`
	Relay  bool           `json:"relay"`
}

// Zone names a zone; empty for the only one.
type Zone struct {
	Zone string `json:"zone"`
}

// Rotation is what became of a rotation that was asked for.
type Rotation struct {
	// Zones that use the keys and move with them.
	Zones []string `json:"zones"`
	// PublicKey and IdentityKey are the new ones; those in force if none is under way.
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	// Enrolled says that the controller has accepted the new keys for every zone. Otherwise Static names the zones in which
	// this node's keys stand in git: a person puts the new ones into its Node document.
	Enrolled bool     `json:"enrolled"`
	Static   []string `json:"static"`
	// Done says that no rotation is under way: the keys above are in force and older ones gone.
	Done bool `json:"done"`
	// Message says what to do next.
	Message string `json:"message"`
}

// Controls is what the agent lets its host do. An error that wraps a *protocol.Problem is the controller's own answer.
type Controls interface {
	Enrolment(ctx context.Context, zone string) (Enrolment, error)
	Join(ctx context.Context, join Join) (Enrolment, error)
	Leave(ctx context.Context, zone string) (Enrolment, error)
	Rotate(ctx context.Context, zone string) (Rotation, error)
	Rotation(ctx context.Context, zone string) (Rotation, error)
}
