//! Every metric and label of the product, once.
//!
//! Names are `switchyard_<room>_<what>_<unit>`; counters end in `_total`; units are seconds and bytes. Labels
//! come from enums or config, never from ids, paths or messages.

/// What becomes of a metric's values, in the words of Prometheus' text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and begins anew with the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts values by upper bounds.
    Histogram,
}

impl Kind {
    /// As in `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric's name and help text.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// As scraped.
    pub name: &'static str,
    /// What becomes of it.
    pub kind: Kind,
    /// One line for `# HELP`.
    pub help: &'static str,
    /// Label names, in order.
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($konst:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $konst: Name = Name {
            name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*]
        };)*
        /// All of them, for the tests that keep code, `docs/metrics.md` and what is scraped in step.
        pub const ALL: &[Name] = &[$($konst),*];
    };
}

metrics! {
    BUILD_INFO = "switchyard_build_info" Gauge ["role", "version"] "1, with the role and the version of this process.";
    HTTP_REQUESTS = "switchyard_http_requests_total" Counter ["role", "status"] "Requests answered by one of our own servers (not the proxy), by status class.";
    HTTP_SECONDS = "switchyard_http_request_seconds" Histogram ["role"] "Time from head to answer at one of our own servers.";
    AUTH_REFUSED = "switchyard_auth_refused_total" Counter ["why"] "Requests that a controller or a registry turned away for their credential: missing, unreadable, wrong, expired, gone (its API key), unsigned (a proxy's word without its signature, or with another), other_time (a signature of another time), forbidden (good, and not for this), not_now (503).";
    AUTH_HANDSHAKES = "switchyard_auth_handshakes_total" Counter ["end"] "Handshakes of API keys that a controller or a registry ended: done, or why not: wrong (another secret, or one that was used), expired (key or secret), gone (no such key), not_now (503).";
    TLS_REFUSED = "switchyard_tls_refused_total" Counter ["reason"] "Connections that a controller or a registry with TLS of its own did not let in, by the reason that a proxy gives for the same.";
    TLS_FILES_OK = "switchyard_tls_files_ok" Gauge ["of"] "1 if the certificates, keys and lists that a controller or a registry names in this table were fine when they were last looked at; at 0 those before them are in use.";
    TLS_CERTIFICATE_UNTIL = "switchyard_tls_certificate_until_seconds" Gauge ["of"] "When the first certificate of this table of a controller or a registry ends, in seconds since 1970.";
    TLS_LIST_UNTIL = "switchyard_tls_revocation_list_until_seconds" Gauge ["of"] "When the first revocation list of this table of a controller or a registry is too old to be believed, in seconds since 1970.";
    CONTROLLER_POLLS = "switchyard_controller_polls" Gauge [] "Agents' polls that are parked at this controller now.";
    CONTROLLER_REFUSED = "switchyard_controller_refused_total" Counter ["reason"] "Requests that a controller turned away before their handler: busy, not_ready, deadline, forbidden (a permission is lacking); and watches: streams (as many as may be are open).";
    CONTROLLER_STREAMS = "switchyard_controller_streams" Gauge [] "Watches that are open at this controller.";
    CONTROLLER_STREAMS_ENDED = "switchyard_controller_streams_ended_total" Counter ["why"] "Watches that the controller ended: behind (changes were taken too slowly), stopping, unauthorized (its credential is no longer good).";
    CONTROLLER_EVENTS = "switchyard_controller_events_total" Counter ["outcome"] "Events on their way to the receiver of `[events] url`: sent; failed, tries that were not taken; lost, forgotten before they were taken, or refused for good.";
    CONTROLLER_EVENTS_WAITING = "switchyard_controller_events_waiting" Gauge [] "Events that the receiver was not told yet, at the controller that tells it.";
    CONTROLLER_READY = "switchyard_controller_ready" Gauge ["class"] "1 while this controller can do what its /readyz says of this class: read, write, poll.";
    CONTROLLER_INSTANCES = "switchyard_controller_instances" Gauge ["state"] "Instances that are listed now, by state, in the whole cloud.";
    CONTROLLER_NODES = "switchyard_controller_nodes" Gauge ["state"] "Nodes by state, in the whole cloud.";
    CONTROLLER_NODES_HELD = "switchyard_controller_nodes_held" Gauge [] "Nodes that fell silent with so many others that nothing of theirs is failed until they return, are deleted or are confirmed to be gone.";
    CONTROLLER_UNREADABLE = "switchyard_controller_unreadable_records" Gauge [] "Records of the store that this controller cannot read and leaves alone.";
    CONTROLLER_MACS = "switchyard_controller_mac_addresses" Gauge ["part"] "Addresses of the MAC pool, where there is one: free, taken, held for VMs that silent nodes may still run.";
    CONTROLLER_QUEUED = "switchyard_controller_queued_starts" Gauge [] "Starts that wait for a node now, in the whole cloud.";
    CONTROLLER_QUEUE_AGE = "switchyard_controller_queue_age_seconds" Gauge [] "For how long the oldest start that waits has waited; 0 when none does.";
    CONTROLLER_PLACEMENT = "switchyard_controller_placement_seconds" Histogram [] "Time from the acceptance of a start to its offer to a node, of offers that this controller made.";
    CONTROLLER_STORE_SECONDS = "switchyard_controller_store_seconds" Histogram ["call"] "Time of a call to the store: get, range, txn, watch, lease, compact.";
    CONTROLLER_STORE_FAILURES = "switchyard_controller_store_failures_total" Counter ["call"] "Calls to the store that were not answered, whose answer was lost, or that it refused.";
    CONTROLLER_STORE_UPKEEP = "switchyard_controller_store_upkeep_total" Counter ["what"] "What this controller did for the store: compacted, or defragmented, a member's file.";
    CONTROLLER_STORE_UP = "switchyard_controller_store_member_up" Gauge ["member"] "1 for a member of the store that says how it stands.";
    CONTROLLER_STORE_BYTES = "switchyard_controller_store_member_bytes" Gauge ["member", "part"] "A member's file, and what of it is used; the rest is free after a defragmentation.";
    CONTROLLER_STORE_QUOTA = "switchyard_controller_store_quota_used_ratio" Gauge ["member"] "A member's file as a share of its quota; at 1 the store takes no more writes.";
    CONTROLLER_STORE_ALARM = "switchyard_controller_store_alarm" Gauge ["member", "alarm"] "1 for an alarm that is raised for a member: NOSPACE, CORRUPT.";
    CONTROLLER_WATCH_LAG = "switchyard_controller_watch_lag_seconds" Gauge [] "For how long the cache has been behind the store, as looked at every second.";
    CONTROLLER_CLOCK_SKEW = "switchyard_controller_clock_skew_seconds" Gauge [] "How far the clock of another controller, the one that is furthest, is from this one's, as its writes tell; 0 where none was heard in ten minutes.";
    CONTROLLER_DUTY_LEADS = "switchyard_controller_duty_leads" Gauge ["duty"] "1 while this controller leads a singleton duty.";
    CONTROLLER_DUTY_SECONDS = "switchyard_controller_duty_pass_seconds" Histogram ["duty"] "Time of one pass of a duty.";
    CONTROLLER_DUTY_CHANGES = "switchyard_controller_duty_changes_total" Counter ["duty"] "What passes of a duty have changed.";
    CONTROLLER_DUTY_FAILURES = "switchyard_controller_duty_failures_total" Counter ["duty"] "Passes of a duty that were cut short by the store.";
    REGISTRY_RECEIVED = "switchyard_registry_received_bytes_total" Counter [] "Bytes taken into upload sessions.";
    REGISTRY_SENT = "switchyard_registry_sent_bytes_total" Counter [] "Bytes of blobs given to readers.";
    REGISTRY_MANIFESTS = "switchyard_registry_manifests_total" Counter [] "Manifests published.";
    REGISTRY_REQUESTS = "switchyard_registry_requests_total" Counter ["api", "class", "status"] "Requests that a registry answered, by API (oci, vendor, replication, other), by what they are (read, blob, upload, write) and by status.";
    REGISTRY_SECONDS = "switchyard_registry_request_seconds" Histogram ["api", "class"] "Time until a registry's answer began.";
    REGISTRY_REFUSED = "switchyard_registry_refused_total" Counter ["api", "reason"] "Requests that a registry turned away: denied (no writes here, or a bound), slow (the body), too_large, busy (too many at once), not_now (503), full (no space), failed (a fault of the storage or ours).";
    REGISTRY_ACCESS_DROPPED = "switchyard_registry_access_lines_dropped_total" Counter [] "Access lines that were dropped because the log could not keep up.";
    REGISTRY_UPLOADS = "switchyard_registry_upload_sessions" Gauge [] "Upload sessions that are open.";
    REGISTRY_UPLOADS_REFUSED = "switchyard_registry_uploads_refused_total" Counter ["why"] "Upload sessions that were not opened: uploads (limits.uploads are open), client (limits.uploads_per_client of one are), space, storage.";
    REGISTRY_UPLOADS_EXPIRED = "switchyard_registry_uploads_expired_total" Counter ["why"] "Upload sessions that were thrown away unfinished: idle (limits.upload_idle), age (limits.upload_age).";
    REGISTRY_FREE = "switchyard_registry_free_bytes" Gauge [] "Free bytes of the storage.";
    REGISTRY_CLEANED = "switchyard_registry_unfinished_removed" Gauge ["what"] "What an earlier run had not finished and the start removed: file, upload, fill.";
    REGISTRY_BROKEN = "switchyard_registry_broken_templates" Gauge [] "Templates that the last listing skipped.";
    REGISTRY_FETCHED = "switchyard_registry_fetched_bytes_total" Counter [] "Bytes of blobs that came from other registries.";
    REGISTRY_FETCH_FAILURES = "switchyard_registry_fetch_failures_total" Counter ["why"] "Asks of other registries for parts of blobs that brought nothing: unreachable, unanswered, silent, slow, refused, strange, corrupt; and storage: what came could not be kept.";
    REGISTRY_POSITION = "switchyard_registry_position" Gauge ["part"] "The position up to which every change is applied here: its epoch and its number in it.";
    REGISTRY_LAG_ENTRIES = "switchyard_registry_lag_entries" Gauge [] "Changes that were read from the writer's log and are not applied here yet.";
    REGISTRY_LAG_BYTES = "switchyard_registry_lag_bytes" Gauge [] "Bytes that are still to be fetched for the next changes.";
    REGISTRY_LAG_SECONDS = "switchyard_registry_lag_seconds" Gauge [] "For how long this registry has been behind its writer's log.";
    REGISTRY_CLAIMS = "switchyard_registry_claims_position" Gauge [] "1 while this registry claims a position, so that proxies send it reads.";
    REGISTRY_FOLLOWERS = "switchyard_registry_followers" Gauge ["kind"] "Replicas and proxies that follow this registry's log.";
    REGISTRY_QUOTA = "switchyard_registry_quota_used_ratio" Gauge [] "What is stored, as a share of the quota of this registry; 0 without one.";
    REGISTRY_SCRUBBED = "switchyard_registry_scrubbed_bytes_total" Counter [] "Bytes of blobs that were read to see whether they are well.";
    REGISTRY_SCRUB_BAD = "switchyard_registry_scrub_bad_total" Counter ["what"] "What the scrub found: blob, bad and quarantined; list, a chunk list that was written anew; unsteady, read wrongly once and rightly again.";
    REGISTRY_SCRUB_REPAIRED = "switchyard_registry_scrub_repaired_total" Counter [] "Quarantined blobs that are here again, or that nothing needs any more.";
    REGISTRY_QUARANTINED = "switchyard_registry_quarantined_blobs" Gauge [] "Blobs that were found bad, are needed, and are not here again yet.";
    REGISTRY_MISSING = "switchyard_registry_missing_bytes" Gauge [] "Bytes of those blobs.";
    REGISTRY_SCRUB_LAST = "switchyard_registry_scrub_last_timestamp_seconds" Gauge [] "When the last pass over all blobs ended, in Unix seconds; 0 before the first since the start.";
    REGISTRY_STORED = "switchyard_registry_stored_bytes" Gauge [] "Bytes of blobs outside the trash, as the last collection of garbage counted them.";
    REGISTRY_TRASH = "switchyard_registry_trash_bytes" Gauge [] "Bytes of blobs in the trash, as the last collection of garbage left them.";
    REGISTRY_GC_RUNS = "switchyard_registry_gc_runs_total" Counter ["outcome"] "Collections of garbage: done; unknown, when what is referenced could not be known and nothing was touched; failed, when the storage did.";
    REGISTRY_GC_BLOBS = "switchyard_registry_gc_blobs_total" Counter ["what"] "Blobs that collections moved: discarded to the trash, purged from it, put-back because something needs them.";
    REGISTRY_GC_BYTES = "switchyard_registry_gc_bytes_total" Counter ["what"] "Bytes of those.";
    REGISTRY_GC_SECONDS = "switchyard_registry_gc_seconds" Gauge [] "How long the last collection of garbage took.";
    REGISTRY_GC_LAST = "switchyard_registry_gc_last_timestamp_seconds" Gauge [] "When the last collection of garbage ended, in Unix seconds.";
    REGISTRY_ASIDE = "switchyard_registry_set_aside" Gauge [] "Histories that were set aside because the writer's is another; an operator looks at each.";
    PROXY_REQUESTS = "switchyard_proxy_requests_total" Counter ["service", "class", "status"] "Requests answered, by status class.";
    PROXY_REFUSED = "switchyard_proxy_refused_total" Counter ["listener", "reason"] "Connections and requests that were refused for what they are, whom they are of or how many there are; and requests that no rule gives to a service.";
    PROXY_UPSTREAM_REQUESTS = "switchyard_proxy_upstream_requests_total" Counter ["service", "upstream", "status"] "Answers of upstreams, by status class.";
    PROXY_UPSTREAM_FAILURES = "switchyard_proxy_upstream_failures_total" Counter ["service", "upstream", "failure"] "Attempts that got no whole answer.";
    PROXY_RETRIES = "switchyard_proxy_retries_total" Counter ["service", "why"] "Further attempts of a request.";
    PROXY_RETRIES_REFUSED = "switchyard_proxy_retries_refused_total" Counter ["service"] "Further attempts that were not made because there were too many already.";
    PROXY_HELD = "switchyard_proxy_held" Gauge ["service"] "Requests that wait, unsent, for an eligible upstream.";
    PROXY_HELD_BYTES = "switchyard_proxy_held_bytes" Gauge ["service"] "What of the requests that wait lies in memory.";
    PROXY_HELD_REFUSED = "switchyard_proxy_held_refused_total" Counter ["service", "reason"] "Requests that were not held, because as many were as may be (number), or what they had sent took as much memory as it may (bytes).";
    PROXY_UPSTREAM_UP = "switchyard_proxy_upstream_up" Gauge ["service", "upstream"] "1 while the upstream passes its probes.";
    PROXY_UPSTREAM_EJECTED = "switchyard_proxy_upstream_ejected" Gauge ["service", "upstream"] "1 while the upstream is ejected for what became of requests, or waits for its trial.";
    PROXY_EJECTIONS = "switchyard_proxy_ejections_total" Counter ["service", "upstream", "failure"] "Ejections, by the failure that was the last straw.";
    PROXY_MAINTENANCE = "switchyard_proxy_maintenance" Gauge ["service"] "1 while everything of the service is answered 503 because `maintenance` or an operator says so.";
    PROXY_ORDERS = "switchyard_proxy_orders" Gauge ["service"] "What operators have said of the service and its upstreams beside the config (drained, a weight, maintenance) and not taken back.";
    PROXY_UPSTREAM_DRAINED = "switchyard_proxy_upstream_drained" Gauge ["service", "upstream"] "1 while the upstream takes nothing new because an operator says so.";
    PROXY_PANIC = "switchyard_proxy_panic" Gauge ["service"] "1 while so few upstreams of the service are left that ejections are ignored.";
    PROXY_UPSTREAM_OUTSTANDING = "switchyard_proxy_upstream_outstanding" Gauge ["service", "upstream"] "Requests under way at the upstream.";
    PROXY_UPSTREAM_CONNECTIONS = "switchyard_proxy_upstream_connections" Gauge ["service", "upstream", "lane"] "Open connections to the upstream for requests, used or not: control, bulk.";
    PROXY_UPSTREAM_UNUSED = "switchyard_proxy_upstream_unused_connections" Gauge ["service", "upstream", "lane"] "Of the open connections to the upstream those that no request uses now.";
    PROXY_UPSTREAM_TAKEN = "switchyard_proxy_upstream_taken_connections_total" Counter ["service", "upstream", "lane", "kind"] "Connections that requests were given: new, or kept from an earlier request.";
    PROXY_UPSTREAM_PENDING = "switchyard_proxy_upstream_pending_connections" Gauge ["service", "upstream"] "Connections to the upstream that are being made.";
    PROXY_UPSTREAM_WAITING = "switchyard_proxy_upstream_waiting" Gauge ["service", "upstream"] "Requests that wait for room at the upstream, because it is at one of its limits.";
    PROXY_UPSTREAM_LIMITED = "switchyard_proxy_upstream_limited_total" Counter ["service", "upstream", "limit"] "Requests that could not go to the upstream when they came: requests, connections, pending (it was at that limit), queue (others waited for it).";
    PROXY_UPSTREAM_WEIGHT = "switchyard_proxy_upstream_weight" Gauge ["service", "upstream"] "What the upstream has of its configured weight now: less while it comes back.";
    PROXY_UPSTREAM_LATENCY = "switchyard_proxy_upstream_latency_seconds" Gauge ["service", "upstream"] "How long the upstream takes to begin an answer, as peak-ewma reckons with it; fades without news.";
    PROXY_PASSED_OVER = "switchyard_proxy_passed_over_total" Counter ["service", "why"] "Choices that departed from their rule: load (the first of a hash has its part), zone (the own one has not enough left), sticky (the client's upstream cannot take it).";
    PROXY_CONNECTIONS = "switchyard_proxy_connections" Gauge ["listener"] "Open client connections.";
    PROXY_STREAMS = "switchyard_proxy_streams" Gauge ["listener"] "Requests under way on connections of HTTP/2.";
    PROXY_FIRST_BYTE = "switchyard_proxy_first_byte_seconds" Histogram ["service", "class"] "Time from request head to the head of the answer.";
    PROXY_TLS_HANDSHAKES = "switchyard_proxy_tls_handshakes_total" Counter ["listener", "kind"] "Handshakes with clients that were finished: full, resumed. Those that were not are refused, with their reason.";
    PROXY_TLS_FILES_OK = "switchyard_proxy_tls_files_ok" Gauge ["kind", "name"] "1 if the certificates, keys and lists that a listener or service names were fine when they were last looked at; at 0 those before them are in use.";
    PROXY_TLS_CERTIFICATE_UNTIL = "switchyard_proxy_tls_certificate_until_seconds" Gauge ["listener"] "When the first of a listener's certificates ends, in seconds since 1970.";
    PROXY_TLS_LIST_UNTIL = "switchyard_proxy_tls_revocation_list_until_seconds" Gauge ["listener"] "When the first of a listener's revocation lists is too old to be believed, in seconds since 1970.";
    PROXY_ACCESS_DROPPED = "switchyard_proxy_access_lines_dropped_total" Counter [] "Access lines that were dropped because the log could not keep up.";
    PROXY_SPANS = "switchyard_proxy_trace_spans_total" Counter ["outcome"] "Recorded parts of traces: sent to the collector; refused: it did not take them; dropped: too many waited for it.";
    PROXY_TRANSFERS = "switchyard_proxy_transfers" Gauge ["service", "lane", "direction"] "Transfers in flight: up, down; both: another protocol.";
    PROXY_BODY_BYTES = "switchyard_proxy_body_bytes_total" Counter ["service", "lane", "direction"] "Bytes of bodies: up, those of requests; down, those of answers. Of transfers while they move, of everything else when it is over.";
    PROXY_ZERO_COPY = "switchyard_proxy_zero_copy_bytes_total" Counter [] "Bytes of bodies that passed without being copied.";
    PROXY_LEASE = "switchyard_proxy_lease_seconds" Gauge ["service"] "What is left of the lease on the writer's log; 0 without one, and then reads go to the writer.";
    PROXY_REGISTRY_FRESH = "switchyard_proxy_registry_fresh" Gauge ["service", "upstream"] "1 while the registry is up and known to have the newest change; not without a lease.";
    PROXY_REGISTRY_LAG = "switchyard_proxy_registry_lag_entries" Gauge ["service", "upstream"] "Changes that the registry has not applied yet, as it told within the last 30 s; none when it has not.";
    PROXY_CATALOGUE_DIFFERING = "switchyard_proxy_catalogue_differing_templates" Gauge ["service", "upstream"] "Templates that the registry does not list as the writer does.";
    PROXY_CATALOGUE_AGE = "switchyard_proxy_catalogue_age_seconds" Gauge ["service", "upstream"] "Time since the last list of the registry that could be had was asked for.";
    PROXY_CATALOGUE_WRITTEN = "switchyard_proxy_catalogue_written_templates" Gauge ["service"] "Templates that were written so lately that the writer alone is asked about them; -1 when that is so of all.";
    PROXY_FRESH_WAITS = "switchyard_proxy_fresh_waits_total" Counter ["service", "outcome"] "Reads that waited for a lagging replica, by what came of it: caught-up, writer, stale, refused, client-gone.";
    PROXY_BEHIND_ANSWERS = "switchyard_proxy_behind_answers_total" Counter ["service", "upstream"] "Answers that were dropped because they were older than what was needed.";
    PROXY_STALE_ANSWERS = "switchyard_proxy_stale_answers_total" Counter ["service", "why"] "Answers that were passed on although they may miss the last pushes: unknown, behind.";
    PROXY_DISCOVERY_OK = "switchyard_proxy_discovery_ok" Gauge ["service"] "1 while the source can be asked in which upstreams of the service are found; at 0 those known go on.";
    PROXY_DISCOVERED = "switchyard_proxy_discovered_upstreams" Gauge ["service"] "Upstreams that were found beside those of the config.";
    PROXY_COHORT_SERVED = "switchyard_proxy_cohort_served" Gauge ["service", "version"] "1 for the version that agents are served from, 0 for the others that there are now.";
    PROXY_COHORT_CHANGES = "switchyard_proxy_cohort_changes_total" Counter ["service", "why"] "Changes of the version that agents are served from: first, settled, fallback, ordered, told.";
    PROXY_ADMIN_REFUSED = "switchyard_proxy_admin_refused_total" Counter ["reason"] "Requests to the admin API that were turned away: no-token, wrong-token, other-site (a page of another site asked).";
    PROXY_UPGRADE_OK = "switchyard_proxy_last_upgrade_success" Gauge [] "0 if the last upgrade came to nothing and this process goes on.";
    PROXY_GENERATION = "switchyard_proxy_upgrade_generation" Gauge [] "How many upgrades led to this process.";
    PROXY_OLD_PROCESSES = "switchyard_proxy_old_processes" Gauge [] "Replaced processes that still have connections.";
    CONFIG_GENERATION = "switchyard_config_generation" Gauge [] "Which config is in use: 0 for that of the start, one more with each reload that was taken.";
    CONFIG_RELOAD_OK = "switchyard_config_last_reload_success" Gauge [] "1 if the last reload was taken.";
}
