package protocol

import (
	"net/url"
	"strconv"

	"github.com/apex-network/apex/spec/peermap"
)

// Patterns for net/http's ServeMux. Path builders below make paths that match them.
const (
	PatternRoot     = "GET /v1/networks/{network}/zones/{zone}/roots/{version}"
	PatternStamp    = "GET /v1/networks/{network}/zones/{zone}/timestamp"
	PatternManifest = "GET /v1/networks/{network}/zones/{zone}/manifests/{digest}"
	PatternView     = "GET /v1/networks/{network}/zones/{zone}/nodes/{node}/view"
	PatternArtefact = "GET /v1/networks/{network}/zones/{zone}/nodes/{node}/artefacts/{digest}"
	PatternWatch    = "GET /v1/networks/{network}/zones/{zone}/nodes/{node}/watch"
	PatternReport   = "POST /v1/networks/{network}/zones/{zone}/nodes/{node}/status"
	PatternApply    = "POST /v1/networks/{network}/apply"
	PatternFleet    = "GET /v1/networks/{network}/status"
	PatternPending  = "GET /v1/networks/{network}/pending"
	PatternCosign   = "POST /v1/networks/{network}/cosign"
	PatternWebhook  = "POST /v1/networks/{network}/webhook"

	PatternEnrolment  = "GET /v1/networks/{network}/enrolment"
	PatternEnrol      = "POST /v1/networks/{network}/zones/{zone}/enrol"
	PatternRotate     = "POST /v1/networks/{network}/zones/{zone}/nodes/{node}/rotate"
	PatternLeave      = "POST /v1/networks/{network}/zones/{zone}/nodes/{node}/leave"
	PatternEnrolments = "GET /v1/networks/{network}/enrolments"
	PatternDecide     = "POST /v1/networks/{network}/enrolments"
	PatternBindings   = "GET /v1/networks/{network}/zones/{zone}/bindings/{digest}"
	PatternRecords    = "POST /v1/networks/{network}/bindings"
)

// Query parameters. QueryHave is the digest of the view the node holds, QueryManifest that of the manifest payload it
// holds (watch) or asks about (view); QueryWait is in whole seconds.
const (
	QueryHave     = "have"
	QueryManifest = "manifest"
	QueryWait     = "wait"
)

// Media types of bodies that are not JSON messages of this package.
const (
	TypeJSON     = "application/json"
	TypeProblem  = "application/problem+json"
	TypeEnvelope = "application/vnd.dsse+json"
	TypeArtefact = "application/cbor"
	TypeEvents   = "text/event-stream"
	TypeText     = "text/plain; charset=utf-8"
)

// NetworkPath is the path of a network's resources, without a trailing slash.
func NetworkPath(network string) string { return "/v1/networks/" + url.PathEscape(network) }

// ZonePath is the path of a zone's resources.
func ZonePath(network, zone string) string {
	return NetworkPath(network) + "/zones/" + url.PathEscape(zone)
}

// NodePath is the path of one node's resources.
func NodePath(network, zone, node string) string {
	return ZonePath(network, zone) + "/nodes/" + url.PathEscape(node)
}

// RootPath is where the signed trust root of a version is; 404 above the newest.
func RootPath(network, zone string, version uint64) string {
	return ZonePath(network, zone) + "/roots/" + strconv.FormatUint(version, 10)
}

// TimestampPath is where the zone's current signed timestamp is.
func TimestampPath(network, zone string) string { return ZonePath(network, zone) + "/timestamp" }

// ManifestPath is where the signed manifest with this payload digest is.
func ManifestPath(network, zone string, manifest peermap.Digest) string {
	return ZonePath(network, zone) + "/manifests/" + manifest.String()
}

// ViewPath is where the node's ViewResponse is.
func ViewPath(network, zone, node string) string { return NodePath(network, zone, node) + "/view" }

// ArtefactPath is where a class or block of the node's own view is.
func ArtefactPath(network, zone, node string, artefact peermap.Digest) string {
	return NodePath(network, zone, node) + "/artefacts/" + artefact.String()
}

// WatchPath is the node's event stream.
func WatchPath(network, zone, node string) string { return NodePath(network, zone, node) + "/watch" }

// ReportPath takes the node's status.
func ReportPath(network, zone, node string) string { return NodePath(network, zone, node) + "/status" }

// ApplyPath takes a signed Apply.
func ApplyPath(network string) string { return NetworkPath(network) + "/apply" }

// FleetPath is where the FleetStatus is.
func FleetPath(network string) string { return NetworkPath(network) + "/status" }

// PendingPath lists what waits for witnesses.
func PendingPath(network string) string { return NetworkPath(network) + "/pending" }

// CosignPath takes a witness's Cosign.
func CosignPath(network string) string { return NetworkPath(network) + "/cosign" }

// WebhookPath takes a forge's webhook.
func WebhookPath(network string) string { return NetworkPath(network) + "/webhook" }

// EnrolmentPath is where the EnrolmentInfo is.
func EnrolmentPath(network string) string { return NetworkPath(network) + "/enrolment" }

// EnrolPath takes an EnrolRequest.
func EnrolPath(network, zone string) string { return ZonePath(network, zone) + "/enrol" }

// RotatePath takes a RotateRequest, LeavePath an empty body that ends the node's binding.
func RotatePath(network, zone, node string) string { return NodePath(network, zone, node) + "/rotate" }

// LeavePath ends the node's binding.
func LeavePath(network, zone, node string) string { return NodePath(network, zone, node) + "/leave" }

// EnrolmentsPath lists enrolments and takes decisions.
func EnrolmentsPath(network string) string { return NetworkPath(network) + "/enrolments" }

// BindingsPath is where the Bindings artefact of a manifest is, for witnesses.
func BindingsPath(network, zone string, bindings peermap.Digest) string {
	return ZonePath(network, zone) + "/bindings/" + bindings.String()
}

// RecordsPath gives witnesses the records they ask for.
func RecordsPath(network string) string { return NetworkPath(network) + "/bindings" }
