package diag

// The codes. A code keeps its meaning for ever; a retired one is not given out again. 10xx text and syntax, 11xx YAML
// traps, 12xx schema, 13xx names and references, 14xx addresses, 15xx keys, 16xx routes, 17xx policy, 18xx trust root,
// 19xx policy tests, 20xx enrolment.
const (
	FileTooLarge     = "APX1001"
	NotUTF8          = "APX1002"
	ByteOrderMark    = "APX1003"
	ControlCharacter = "APX1004"
	Tab              = "APX1005"
	Syntax           = "APX1006"
	TooDeep          = "APX1007"
	TooManyProblems  = "APX1008"
	Directive        = "APX1009"

	DuplicateKey     = "APX1101"
	Anchor           = "APX1102"
	Alias            = "APX1103"
	MergeKey         = "APX1104"
	Tag              = "APX1105"
	NonCanonicalInt  = "APX1106"
	NonCanonicalBool = "APX1107"
	NullValue        = "APX1108"
	Unquoted         = "APX1109"
	KeyNotString     = "APX1110"

	APIVersion    = "APX1201"
	UnknownKind   = "APX1202"
	UnknownField  = "APX1203"
	MissingField  = "APX1204"
	WrongType     = "APX1205"
	OutOfRange    = "APX1206"
	BadName       = "APX1207"
	BadLabel      = "APX1208"
	ItemCount     = "APX1209"
	BadAddress    = "APX1210"
	BadPrefix     = "APX1211"
	HostBits      = "APX1212"
	BadKey        = "APX1213"
	BadDuration   = "APX1214"
	BadTime       = "APX1215"
	BadPort       = "APX1216"
	BadEndpoint   = "APX1217"
	SelectorShape = "APX1218"
	DuplicateItem = "APX1219"
	BadPath       = "APX1220"
	BadScalar     = "APX1221"

	NoNetwork         = "APX1301"
	SecondDocument    = "APX1302"
	DuplicateDocument = "APX1303"
	UnknownZone       = "APX1304"
	UnknownNode       = "APX1305"
	UnknownLabel      = "APX1306"
	TooManyDocuments  = "APX1307"

	AddressOutside   = "APX1401"
	AddressDynamic   = "APX1402"
	AddressReserved  = "APX1403"
	DuplicateAddress = "APX1404"
	RangesOverlap    = "APX1405"
	DynamicOutside   = "APX1406"
	RangeUnusable    = "APX1407"
	ZonesOverlap     = "APX1408"
	PortClash        = "APX1409"

	DuplicatePublicKey = "APX1501"
	WeakKey            = "APX1502"

	RouteOverlap   = "APX1601"
	RouteUnclaimed = "APX1602"
	RouteInZone    = "APX1603"
	RouteUnusable  = "APX1604"

	RuleMatchesNothing = "APX1701"
	RuleExpired        = "APX1702"
	IdentitySelector   = "APX1703"
	TestEndpoint       = "APX1704"
	TestEmpty          = "APX1705"

	NoTrustRoot      = "APX1801"
	TrustRootPlace   = "APX1802"
	TrustUnknownKey  = "APX1803"
	TrustThreshold   = "APX1804"
	TrustSameKey     = "APX1805"
	TrustWeakKey     = "APX1806"
	TrustBadKey      = "APX1807"
	TrustUnusedKey   = "APX1808"
	TrustUnknownZone = "APX1809"
	TrustValidity    = "APX1810"
	TrustKeyType     = "APX1811"
	TrustExpired     = "APX1812"
	TrustIdentity    = "APX1813"
	TrustKeyRoles    = "APX1814"

	TestFailed = "APX1901"

	BadClaim          = "APX2001"
	MemberNobody      = "APX2002"
	UnknownIssuer     = "APX2003"
	BadIssuer         = "APX2004"
	MembersNowhere    = "APX2005"
	MemberAnybody     = "APX2006"
	AmbiguousIdentity = "APX2007"
	BadRevocation     = "APX2008"
	ApprovalUnused    = "APX2009"
	NoEnrolmentKey    = "APX2010"
	IssuerUngranted   = "APX2011"
	ApplyTokensEnrol  = "APX2012"
)

// Entry explains one code.
type Entry struct {
	Code string
	// Title is a noun phrase of a few words.
	Title string
	// Explanation is a paragraph: what is wrong, why it is refused, what to do.
	Explanation string
}

// Explain gives the entry of a code; for an unknown one, an entry with that code and the title "problem".
func Explain(code string) Entry {
	for _, e := range Table() {
		if e.Code == code {
			return e
		}
	}
	return Entry{Code: code, Title: "problem"}
}
