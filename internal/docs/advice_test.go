package docs

// agentAdvice says what to watch for in each metric of the agent.
var agentAdvice = map[string]string{
	"apex_agent_info":                                "Versions across the fleet.",
	"apex_agent_condition":                           "Alert on `Ready` 0 for five minutes, and on any other condition 1; on `TrustAlarm` at once.",
	"apex_agent_generation_serial":                   "Verified ahead of applied for long: see `RolledBack`, `ApplyFailed`. Behind the controller's: see `Unreachable`.",
	"apex_agent_generation_epoch":                    "Orders before the serial; changes only when the trust root's epoch was raised.",
	"apex_agent_signature_age_seconds":               "`timestamp` above its validity (10 minutes unless set): nobody vouches for this state.",
	"apex_agent_signature_expiry_timestamp_seconds":  "`root` less than 30 days ahead: rotate.",
	"apex_agent_controller_connected":                "0 for minutes: no news arrives.",
	"apex_agent_controller_last_message_age_seconds": "Above a minute while connected: a proxy in between buffers the stream.",
	"apex_agent_peers":                               "`alive` falls on many hosts at once. Idle peers without keepalive are not alive; that is no fault.",
	"apex_agent_peer_receive_bytes_total":            "A sum over current peers: it falls when a peer leaves, so use `increase` with care.",
	"apex_agent_peer_transmit_bytes_total":           "As above.",
	"apex_agent_applied_total":                       "Rises without a commit: an endpoint moved, or a rule ended.",
	"apex_agent_rolled_back_total":                   "Any rise: see `RolledBack`.",
	"apex_agent_unchanged_total":                     "Nothing; it shows that commits elsewhere cost this host nothing.",
	"apex_agent_refused_total":                       "Any rise: see `Refused` and `TrustAlarm`.",
	"apex_agent_full_fetches_total":                  "Steady rise: a proxy breaks the watch, or the cache is lost at each start.",
	"apex_agent_drift_total":                         "Steady rise: some program fights the agent.",
	"apex_agent_drift_repaired_total":                "Its `subsystem` says where: link, address, wireguard, route, firewall, sysctl.",
	"apex_agent_rule_packets_total":                  "`drop input`, `drop output`, `drop forward`: what policy kept out. Other values of `rule` are POLICY/INDEX in git.",
	"apex_agent_rule_bytes_total":                    "As above. Both begin anew when the table is replaced.",
}

// controllerAdvice says what to watch for in each metric of the controller.
var controllerAdvice = map[string]string{
	"apex_controller_commit_refused":                     "1 for minutes: the branch holds something that is not live. See [a refused commit](#a-refused-commit).",
	"apex_controller_last_fetch_timestamp_seconds":       "Older than three poll intervals: the repository cannot be reached.",
	"apex_controller_fetch_failures_total":               "Steady rise: credentials, network, or the forge.",
	"apex_controller_sync_duration_seconds":              "The time from fetch to publication; grows with the size of a change.",
	"apex_controller_sign_failures_total":                "Any rise: a key lacks its role, or the disk is full. See the log.",
	"apex_controller_generation_serial":                  "Compare with the agents'. It rises with each published commit and each renewed manifest.",
	"apex_controller_generation_nodes":                   "A sudden fall: the shrink guard should have asked.",
	"apex_controller_generation_pending":                 "1 for minutes: a witness is away or refuses; `apex status --controller` says which.",
	"apex_controller_manifest_expiry_timestamp_seconds":  "Less than a third of its validity ahead: renewal fails. Alert a day before.",
	"apex_controller_timestamp_expiry_timestamp_seconds": "In the past: every agent is `Stale`. Alert at once.",
	"apex_controller_zone_suspended":                     "1 for longer than somebody remembers why.",
	"apex_controller_zone_problem":                       "1: the newest content cannot be signed or stored; the old one stays served.",
	"apex_controller_http_request_duration_seconds":      "By resource; a watch counts once, when it ends.",
	"apex_controller_http_problems_total":                "`proof-refused` rises: a removed node still asks, a clock is off by a minute, or somebody knocks. A few `not-found` are normal: agents ask for the next trust root.",
	"apex_controller_watches":                            "Should equal the agents times their zones.",
	"apex_controller_watches_dropped_total":              "Steady rise: clients on bad links, or a proxy with a short time-out.",
	"apex_controller_watch_updates_total":                "Generations delivered.",
	"apex_controller_watch_sent_bytes_total":             "Bandwidth of changes, before TLS.",
}
