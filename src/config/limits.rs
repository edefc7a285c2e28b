//! Every timeout and size that bounds a peer, by name and with its reason. What an operator may set is here as its
//! default; the rest is fixed because no sensible installation wants another value.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// Budgets.

/// The `Retry-After` of a spent budget: work that is under way ends, or is cut off, within seconds.
pub(crate) const BUDGET_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Requests that wait for one budget.
pub(crate) const BUDGET_WAITING: usize = 8192;
/// Those of one client: each is a request that is held in memory.
pub(crate) const BUDGET_WAITING_OF_ONE: usize = 1024;

// Accepting.

/// A TLS handshake ends within this: some round trips, even over a satellite; a silent client holds its place no
/// longer.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A PROXY header is the first thing that a balancer beside us sends: later than this it is not one.
pub(crate) const PROXY_HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// A PROXY v2 header is 16 bytes and at most this of addresses and TLVs; ours only reads addresses.
pub(crate) const PROXY_HEADER_BYTES: usize = 4 * KIB;
/// The pause after a failed accept, so that running out of file descriptors does not become a busy loop.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// The longest such pause, when accepting keeps failing.
pub(crate) const ACCEPT_BACKOFF_MOST: Duration = Duration::from_secs(1);
/// Connections that the kernel holds ready while we are busy; it cuts this to `net.core.somaxconn`.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;
/// The bytes that wait in the kernel to be sent to a client, beyond those that are on their way: it then takes no more. Without
/// it the buffer grows to megabytes. A quarter of it cost downloads a tenth of their processor time.
pub(crate) const UNSENT_BYTES: u32 = MIB as u32;
/// Default of `server.max_connections`: some 20 KiB each when idle, so 200 MiB at worst.
pub(crate) const CONNECTIONS: usize = 10_000;
/// The part of them that one client may have by default.
pub(crate) const CONNECTIONS_SHARE: usize = 8;
/// But no fewer than these: a pull opens several at a time.
pub(crate) const CONNECTIONS_SHARE_LEAST: usize = 16;
/// How long an accepted connection waits for a place before it is closed. The system keeps others waiting meanwhile.
pub(crate) const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// The most that `server.max_connections` may be: beyond it, file descriptors and memory give out first.
pub(crate) const CONNECTIONS_MOST: i64 = 1_000_000;

// HTTP as a server.

/// Default of `server.header_timeout`: a client that sends its header byte by byte is gone after this.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `server.idle_timeout`: longer than the 60 s after which balancers in front drop a connection, so that
/// they close first and no request meets a closing connection.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Default of `server.stall_timeout`: a transfer may last for hours, but moves a byte within this.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Default of `server.drain_timeout`: what is under way when SIGTERM comes has this long.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that was accepted before the drain has this long for its first request: a round trip or two.
pub(crate) const DRAIN_FIRST_REQUEST: Duration = Duration::from_secs(1);
/// The longest that any timeout may be set to; no deadline computed from it overflows.
pub(crate) const TIMEOUT_MOST: Duration = Duration::from_secs(365 * 24 * 3600);
/// A request's whole header: bearer tokens are the largest thing in it and stay far below.
pub(crate) const HEADER_BYTES: usize = 64 * KIB;
/// Header fields of one request. Docker sends about ten, proxies add as many again.
pub(crate) const HEADER_COUNT: usize = 100;
/// Header fields of an upstream's answer: as many as a head of [`HEADER_BYTES`] can hold.
pub(crate) const UPSTREAM_HEADER_COUNT: usize = HEADER_BYTES / 4;
// HTTP/2.

/// A stream's window: 4 MiB in flight fill 1 Gbit/s at 30 ms.
pub(crate) const H2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The connection's window: two busy streams' worth, whatever their number.
pub(crate) const H2_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Streams at once on a connection: RFC 9113 section 6.5.2 advises no less than 100.
pub(crate) const H2_STREAMS: u32 = 100;
/// The bytes that hyper holds of one stream's answer while the client's window is full.
pub(crate) const H2_SEND_BUFFER_BYTES: usize = 256 * KIB;
/// DATA frames: larger ones save wake-ups, and at most this much of another stream is ahead of an answer.
pub(crate) const H2_FRAME_BYTES: u32 = 64 * 1024;
/// Streams that the client reset before we answered them (rapid reset, CVE-2023-44487): more end the connection.
pub(crate) const H2_PENDING_RESETS: usize = 20;
/// Streams that we reset for the client's errors (CVE-2025-8671): more end the connection.
pub(crate) const H2_LOCAL_RESETS: usize = 256;
/// The interval of pings on a silent HTTP/2 connection.
pub(crate) const H2_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// The time for answering such a ping.
pub(crate) const H2_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

// Bodies.

/// A buffer between two sockets, and the piece that a file is read in: larger ones gain nothing measurable.
pub(crate) const COPY_BUFFER_BYTES: usize = 64 * KIB;

/// The most that is read of a blob at once, for a client that takes it as fast as it comes. On plain HTTP, where the
/// system calls are all there is, 64 KiB cost a third more.
pub(crate) const COPY_BUFFER_MOST: usize = 512 * KIB;

/// The first read of a file.
pub(crate) const FILE_PIECE_LEAST: usize = 128 * KIB;
/// The largest read of a file. On plain HTTP 256 KiB cost 7 % more, 64 KiB a fifth.
pub(crate) const FILE_PIECE_MOST: usize = 512 * KIB;

/// The bytes of an upload that are read at once, from a client that sends as fast as the gateway reads. A quarter of this
/// costs 5 % more.
pub(crate) const UPLOAD_BUFFER_BYTES: usize = 256 * KIB;
/// The bytes that are read of an upstream's error answer; the rest says nothing more.
pub(crate) const ERROR_BODY_BYTES: usize = 64 * KIB;
/// The time for those bytes: they are waited for before the client gets its answer.
pub(crate) const ERROR_BODY_DEADLINE: Duration = Duration::from_secs(2);
/// A body that is held whole brings in each such window
pub(crate) const HELD_BODY_WINDOW: Duration = Duration::from_secs(10);
/// at least these bytes, which is 16 KiB/s: one that trickles holds a client, and memory, for ever.
pub(crate) const HELD_BODY_WINDOW_BYTES: usize = 160 * KIB;
/// And it is here within this: the largest manifest at the least rate.
pub(crate) const HELD_BODY_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// A token server's answer: the largest seen (many scopes) are below 16 KiB.
pub(crate) const TOKEN_BYTES: usize = 64 * KIB;
/// A manifest of an upstream: the most that containerd takes.
pub(crate) const MANIFEST_BYTES: usize = 4 * 1048 * 1048;
/// A manifest that is pushed: the specification asks registries to take at least this and for clients not to send more.
pub(crate) const PUSHED_MANIFEST_BYTES: usize = 4 * MIB;

/// The time for a manifest to arrive and to find room: it is small.
pub(crate) const MANIFEST_DEADLINE: Duration = Duration::from_secs(60);

/// Default of `server.max_held_bytes`: what is held whole, all together. 64 of the largest manifests.
pub(crate) const HELD_BYTES: u64 = 256 * MIB as u64;
/// The least that it may be: a client's quarter holds the longest list.
pub(crate) const HELD_BYTES_LEAST: u64 = 64 * MIB as u64;
/// Bodies up to this many bytes are not counted: the request costs as much.
pub(crate) const UNCOUNTED_BYTES: u64 = 4 * KIB as u64;
/// The steps in which room is taken for a body that arrives.
pub(crate) const HELD_STEP_BYTES: u64 = 64 * KIB as u64;
/// How long a body that arrives waits for room.
pub(crate) const HELD_WAIT: Duration = Duration::from_secs(10);
/// The bytes of a page of referrers or of the catalog from an upstream: 100,000 names in one page are some 5 MB.
pub(crate) const LIST_PAGE_BYTES: usize = 16 * MIB;
/// A list of tags or referrers that is kept for when the upstream can't be asked: the longest seen are 4.3 MB.
pub(crate) const KEPT_LIST_BYTES: usize = 8 * MIB;
/// Lists that are kept of one repository: its pages, and the referrers of its images. The oldest go first.
pub(crate) const KEPT_LISTS: usize = 64;
/// The bytes that are still read of a refused upload, so that the client gets to read the answer.
pub(crate) const REFUSED_UPLOAD_BYTES: usize = MIB;
/// The time for which a refused upload is still read.
pub(crate) const REFUSED_UPLOAD_DEADLINE: Duration = Duration::from_secs(2);

// Logging in.

/// An htpasswd file: 200 000 users. A larger one is most likely another file.
pub(crate) const HTPASSWD_BYTES: u64 = 16 * 1024 * 1024;
/// A file of revoked tokens' ids: some 700 000.
pub(crate) const REVOKED_BYTES: u64 = 16 * 1024 * 1024;
/// The lifetime of access tokens; clients get a new one without asking a person.
pub(crate) const TOKEN_TTL: Duration = Duration::from_secs(5 * 60);
/// The least lifetime (token auth, token.md: clients must be able to rely on 60 s).
pub(crate) const TOKEN_TTL_LEAST: Duration = Duration::from_secs(60);
/// The longest lifetime: a leaked token is good for as long.
pub(crate) const TOKEN_TTL_MOST: Duration = Duration::from_secs(24 * 3600);
/// The difference of clocks, of replicas and of other registries, that is put up with.
pub(crate) const TOKEN_LEEWAY: Duration = Duration::from_secs(60);
/// The time after its death in which an access token is still good for an upload that began before.
pub(crate) const TOKEN_UPLOAD_GRACE: Duration = Duration::from_secs(24 * 3600);
/// The memory for tokens that were found good, in bytes: some 5000.
pub(crate) const TOKEN_MEMORY_BYTES: u64 = 16 * MIB as u64;
/// The longest form of a token request by POST. Some passwords are keys of several KiB.
pub(crate) const TOKEN_FORM_BYTES: usize = 64 * KIB;
/// The time for such a form to arrive.
pub(crate) const TOKEN_FORM_DEADLINE: Duration = Duration::from_secs(10);
/// The time for which an upstream's acceptance of a password is believed: after a change there the old one works here
/// for as long.
pub(crate) const FORWARDED_LOGIN_LIFE: Duration = Duration::from_secs(5 * 60);
/// Different logins that upstreams are asked about at once: each may hold a connection for as long as
/// `response_timeout`.
pub(crate) const FORWARDED_LOGINS: usize = 256;
/// Such logins at once from one client address, which may be an office's at nine in the morning.
pub(crate) const FORWARDED_LOGINS_OF_ONE: usize = 32;
/// The time for which a password that an upstream accepts under any name is not asked about again, and the number of
/// these that are remembered.
pub(crate) const UNPROVED_LOGIN_LIFE: Duration = Duration::from_secs(5 * 60);
/// See [`UNPROVED_LOGIN_LIFE`].
pub(crate) const UNPROVED_LOGINS: u64 = 4_000;
/// The interval at which watched files are looked at. Change events miss network and bind mounts.
pub(crate) const FILE_WATCH_INTERVAL: Duration = Duration::from_secs(2);

// Upstream.

/// Default of `upstream.max_connections`: requests of as many at a time that a registry's own limits or a CDN would not
/// slow down. With some 50 ms each they are 5000 a second.
pub(crate) const UPSTREAM_CONNECTIONS: u32 = 256;
/// The most that `upstream.max_connections` may be: there are no more ports towards one address.
pub(crate) const UPSTREAM_CONNECTIONS_MOST: i64 = 65_535;
/// How long a request waits for a free connection to an upstream, where `response_timeout` is not shorter: less than clients
/// wait, so that they see the reason.
pub(crate) const UPSTREAM_WAIT: Duration = Duration::from_secs(10);
/// Default of `upstream.connect_timeout`: TCP and TLS.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A proxy's answer to CONNECT: a status and a few fields. What is longer is a page, or no proxy.
pub(crate) const PROXY_ANSWER_BYTES: usize = 16 * KIB;
/// Default of `upstream.response_timeout`: from the request's end to the answer's header.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of `upstream.retries`.
pub(crate) const RETRIES: u32 = 3;
/// The most that `upstream.retries` may be: the client waits through all of them.
pub(crate) const RETRIES_MOST: i64 = 10;
/// The pause before the first retry; it doubles, with jitter.
pub(crate) const RETRY_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause between retries, and the longest `Retry-After` that is waited for rather than passed on.
pub(crate) const RETRY_BACKOFF_MOST: Duration = Duration::from_secs(5);
/// Redirects followed for one answer: registries need one, some CDNs two.
pub(crate) const REDIRECTS: usize = 5;
/// A URL that an upstream sends the gateway to, in bytes: signed ones take up to 4 KiB.
pub(crate) const URL_BYTES: usize = 16 * 1024;
/// Upstream pages read for one page of the catalog: most of them may hold nothing that the client may see. With full pages
/// these are 64,000 names.
pub const CATALOG_UPSTREAM_PAGES: usize = 64;
/// The time after which no further upstream page is read for one page of the catalog. Clients give up after some 30 s.
pub(crate) const CATALOG_DEADLINE: Duration = Duration::from_secs(15);
/// Entries of one page of the catalog or of tags that the gateway puts together itself.
pub(crate) const CATALOG_ENTRIES: usize = 1000;
/// An unused connection to an upstream is closed after this: before most balancers' 60 s, so that few turn out dead.
pub(crate) const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// How long before the end of the time that an upstream announces (`Keep-Alive: timeout=5`) a connection is no longer used:
/// the answer's way here counts against it.
pub(crate) const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);
/// The time that an upstream has to say `100 Continue`, as in Go's and curl's clients.
pub(crate) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// The idle time up to which a kept connection serves for a body, where the upstream knows nothing of `100 Continue`. The
/// shortest keep-alive in use is 2 s (gunicorn).
pub(crate) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Unused connections that each worker keeps to one upstream.
pub(crate) const UPSTREAM_IDLE_CONNECTIONS: usize = 64;
/// Requests that share one HTTP/2 connection to an upstream, at most; a server may want fewer.
pub(crate) const UPSTREAM_H2_STREAMS: u32 = 200;
/// A shared stream's window: most manifests and pages whole, and all that a reader who reads nothing holds.
pub(crate) const UPSTREAM_H2_SHARED_WINDOW_BYTES: u32 = 256 * 1024;
/// The time for which a server that chose HTTP/1.1 is not offered HTTP/2 again. Being wrong costs little, and so does
/// asking.
pub(crate) const UPSTREAM_PROTOCOL_KNOWN: Duration = Duration::from_secs(10 * 60);

/// How often idle connections and tokens near their end are looked for. A token of 60 s, the shortest that registries
/// give, has its last quarter for being renewed.
pub(crate) const UPSTREAM_TEND_INTERVAL: Duration = Duration::from_secs(1);

// Asking upstreams for the cache.

/// Failures to reach an upstream, one after the other, after which it is left alone: two may be one lost connection.
pub(crate) const BREAKER_FAILURES: u32 = 3;
/// The pause before the first probe of an upstream that is left alone; it doubles.
pub(crate) const BREAKER_PAUSE: Duration = Duration::from_secs(1);
/// An upstream that fails again within this after it came back is left alone for twice as long as before: it does not
/// come and go each second.
pub(crate) const BREAKER_REMEMBERED: Duration = Duration::from_secs(60);
/// The longest such pause: an upstream that is back is noticed within half a minute.
pub(crate) const BREAKER_PAUSE_MOST: Duration = Duration::from_secs(30);
/// The pause after a 429 without `Retry-After`.
pub(crate) const LIMITED_PAUSE: Duration = Duration::from_secs(60);
/// The shortest `Retry-After` that is believed.
pub(crate) const LIMITED_PAUSE_LEAST: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is obeyed at once: a longer one has to be repeated. Docker Hub's window is six hours,
/// but it lets go bit by bit.
pub(crate) const LIMITED_PAUSE_MOST: Duration = Duration::from_secs(60 * 60);
/// The most that the tag of a signature or an attestation is believed: a new signature is to be seen at once.
pub(crate) const SIGNATURE_TAG_LIFE: Duration = Duration::from_secs(5);
/// The time for which a registry that refuses HEAD of a manifest, and answers GET, is not asked by HEAD again.
pub(crate) const HEAD_USELESS: Duration = Duration::from_secs(60 * 60);
/// A GET so soon after the refused HEAD is about the same manifest: later it may have been pushed in between.
pub(crate) const HEAD_REFUSAL_FRESH: Duration = Duration::from_secs(5);
/// Manifests in memory, in bytes: some ten thousand.
pub(crate) const HOT_MANIFEST_BYTES: u64 = 64 * MIB as u64;
/// Manifests of more than this are large: to hash one and to parse it takes milliseconds. They are read from the disk a few at a
/// time, so that cores are left for all else.
pub(crate) const LARGE_MANIFEST_BYTES: u64 = 256 * KIB as u64;
pub(crate) const LARGE_MANIFEST_READS: u64 = 2;
/// How long a manifest stays in memory: so often the store hears that it is in use, and so late memory hears that it
/// was removed there.
pub(crate) const HOT_MANIFEST_LIFE: Duration = Duration::from_secs(60);
/// Tags of one upstream whose HEAD was answered while the manifest is not here.
pub(crate) const SEEN_TAGS: u64 = 10_000;
/// Blobs of one upstream that are fetched ahead at a time: clients come first.
pub(crate) const PREFETCHES: usize = 3;
/// Fills of one upstream that clients wait for, from which on nothing is fetched ahead.
pub(crate) const PREFETCH_YIELDS: usize = 4;
/// Blobs of one upstream that wait to be fetched ahead: some hundred images.
pub(crate) const PREFETCH_WAITING: usize = 4096;
/// Blobs of one manifest that are fetched ahead, the first ones. Docker's own limit for an image is 127 layers, and few have 50.
pub(crate) const PREFETCH_LAYERS: usize = 100;
/// The time for which a blob is not fetched ahead again, whatever became of it: the client asks for it itself.
pub(crate) const PREFETCH_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Blobs of one upstream that are remembered for that.
pub(crate) const PREFETCH_REMEMBERED: u64 = 64 * 1024;
/// Of these, those that one client may have waiting: what is over it the client fetches itself.
pub(crate) const PREFETCH_CLIENT_WAITING: usize = PREFETCH_WAITING / 8;
/// The credit of a client that is new: the bytes that may be fetched because it named them, before it has taken any itself. Most
/// images have less; of larger ones the client takes some, which it is credited with.
pub(crate) const CREDIT_BYTES: u64 = 128 * MIB as u64;
/// The bytes by which a client's credit grows each second, up to [`CREDIT_BYTES`].
pub(crate) const CREDIT_BYTES_A_SECOND: u64 = 64 * KIB as u64;
/// The most credit that a client has from what it took: a layer of this size is fetched ahead.
pub(crate) const CREDIT_MOST_BYTES: u64 = 16 * 1024 * MIB as u64;
/// The least price of a blob: each costs the upstream a request, and few registries need longer for this many bytes.
pub(crate) const CREDIT_LEAST_PRICE: u64 = 256 * KIB as u64;
/// The length that a layer may have of which the manifest does not say it, as in schema 1.
pub(crate) const PREFETCH_UNKNOWN_BYTES: u64 = 64 * MIB as u64;
/// Clients of one upstream whose credit is remembered, and the time after their last request.
pub(crate) const CREDITS: u64 = 64 * 1024;
/// As [`CREDITS`].
pub(crate) const CREDIT_IDLE: Duration = Duration::from_secs(60 * 60);
/// The life of a waiting prefetch: after this the client has fetched the blob itself.
pub(crate) const PREFETCH_LIFE: Duration = Duration::from_secs(5 * 60);
/// The interval at which a paused prefetch looks again.
pub(crate) const PREFETCH_PAUSE: Duration = Duration::from_millis(250);

// Tokens from upstreams.

/// A token server's answer comes within this, once its head is there: it is a few KiB.
pub(crate) const TOKEN_DEADLINE: Duration = Duration::from_secs(10);
/// The tokens of one upstream together, in bytes: some 20 000 of Docker Hub's.
pub(crate) const UPSTREAM_TOKEN_BYTES: u64 = 64 * MIB as u64;
/// Tokens that are asked for at a time, for one upstream. A slow endpoint must not be given ever more to do.
pub(crate) const TOKEN_REQUESTS: u64 = 64;
/// Tokens that wait to be asked for before the next is told to come again later.
pub(crate) const TOKEN_WAITING: usize = 1024;
/// A token that was not used for this time is dropped.
pub(crate) const UPSTREAM_TOKEN_IDLE: Duration = Duration::from_secs(60 * 60);
/// The longest that a token is believed, whatever it says: long enough for every registry's, and an end to mistakes.
pub(crate) const TOKEN_LIFETIME_MOST: Duration = Duration::from_secs(12 * 60 * 60);
/// A token this new that an upstream refuses would be refused again if it were newer.
pub(crate) const TOKEN_FRESH: Duration = Duration::from_secs(10);
/// After a token endpoint has failed, how long it is not asked again for the same.
pub const TOKEN_FAILED_PAUSE: Duration = Duration::from_secs(2);
/// After credentials were refused, how long they are not shown again: a misconfigured gateway must not lock its own
/// account. Doubles each time.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// The longest such pause.
pub(crate) const REFUSED_PAUSE_MOST: Duration = Duration::from_secs(5 * 60);
/// A scope that is refused raises the question whether the credentials are good. How long an answer holds.
pub(crate) const CREDENTIALS_BELIEVED: Duration = Duration::from_secs(10);
/// The longest `Retry-After` of a token endpoint that is obeyed at once: a longer one has to be repeated.
pub(crate) const TOKEN_LIMITED_MOST: Duration = Duration::from_secs(60);

// The cache.

/// Default of `upstream.cache.tag_ttl`: a tag that moves is seen within minutes, and a fleet that starts asks once.
pub(crate) const TAG_TTL: Duration = Duration::from_secs(5 * 60);
/// Default of `upstream.cache.stale_after`: longer than a slow registry takes, and short for a node that starts a container.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(5);
/// The least time between two log lines of an upstream which say that stale content serves.
pub(crate) const STALE_LOGGED: Duration = Duration::from_secs(10);
/// Default of `upstream.cache.stale_if_error`: an upstream that has been away for a week is not coming back by itself.
pub(crate) const STALE_IF_ERROR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Default of `upstream.cache.not_found_ttl`: clients ask again at once, and a push by another way is seen soon.
pub(crate) const NOT_FOUND_TTL: Duration = Duration::from_secs(30);
/// Default of `upstream.cache.grant_stale`: an outage of an hour is not felt, and a client that has lost a right is
/// refused after it.
pub(crate) const GRANT_STALE: Duration = Duration::from_secs(3600);
/// Default of `cache.verify_after`: a spoilt blob is served for a week at most.
pub(crate) const VERIFY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// The least `cache.verify_after`.
pub(crate) const VERIFY_AFTER_LEAST: Duration = Duration::from_secs(3600);
/// The pace of the scrub, in bytes a second: a terabyte in a day and a half, and a tenth of what a slow disk reads.
pub(crate) const SCRUB_BYTES_PER_SECOND: u64 = 8 * MIB as u64;
/// The pause between two rounds of the scrub.
pub(crate) const SCRUB_PAUSE: Duration = Duration::from_secs(3600);
/// The most files in quarantine. Their bytes are limited too, to a hundredth of `cache.max_size`.
pub(crate) const QUARANTINED: usize = 64;
/// Default of `cache.max_size`: some hundred images.
pub(crate) const CACHE_BYTES: u64 = 100 * 1024 * 1024 * 1024;
/// Default of `cache.min_free`, in hundredths: what ext4 keeps for root, without which everything else slows down too.
pub(crate) const CACHE_FREE_PERCENT: u8 = 5;

// The other replicas.

/// Default of `peers.refresh`: what changes in DNS is known to all replicas within seconds.
pub(crate) const PEERS_REFRESH: Duration = Duration::from_secs(5);
/// Default of `peers.connect_timeout`: a round trip or two within a site. A replica that is stopped takes no handshake.
pub(crate) const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Default of `peers.resting`.
pub(crate) const PEER_RESTING: Duration = Duration::from_secs(5);
/// A replica that has been silent for this long while something is awaited of it is asked whether it lives.
pub(crate) const PEER_SILENCE: Duration = Duration::from_millis(250);
/// How often it is asked so, and how long it has to answer. Two that it does not answer end what is awaited.
pub(crate) const PEER_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer to a client waits until the replicas know of a write.
pub(crate) const PEER_NOTICE: Duration = Duration::from_secs(1);
/// How long one of them has for it, each of the two times that it is told: one that hangs must not keep the others from it.
pub(crate) const PEER_NOTICE_EACH: Duration = Duration::from_millis(400);
/// How much longer than the upstream a replica may take until it answers. It lives, and the upstream may be fast: then it is asked
/// from here.
pub(crate) const PEER_ANSWER: Duration = Duration::from_secs(5);
/// How often it is tried to tell a replica of a write that it has not heard of.
pub(crate) const PEER_NOTICE_AGAIN: Duration = Duration::from_secs(1);
/// Writes that replicas have not heard of.
pub(crate) const PEER_NOTICES_UNHEARD: usize = 4096;
/// How long replicas are not asked for content that did not have its digest.
pub(crate) const PEER_DISTRUST: Duration = Duration::from_secs(600);
/// Contents of which it is known which replicas have sent it.
pub(crate) const PEER_CONTENTS: u64 = 4096;
/// Replicas that are asked for bytes before the upstream is: the owner, and the next in order.
pub(crate) const PEERS_ASKED: usize = 2;
/// Replicas that are asked for what is held alone: each answers at once.
pub(crate) const PEERS_ASKED_HELD: usize = 8;
/// The members of a fleet. A name with more addresses than this is none of replicas.
pub(crate) const PEERS_MOST: usize = 256;
/// Connections of other replicas at a time: some for each stream that one takes.
pub(crate) const PEER_CONNECTIONS: u64 = 4096;
/// Connections to one replica that are kept open while nothing is asked on them, for each worker.
pub(crate) const PEER_CONNECTIONS_IDLE: usize = 32;
/// How long a connection to a replica is kept open: shorter than the other end keeps it, so that no question meets its end.
pub(crate) const PEER_IDLE: Duration = Duration::from_secs(30);
/// How long ago a connection to a replica was used that is asked something again, so that it stays open.
pub(crate) const PEER_READY_AGE: Duration = Duration::from_secs(15);
/// The other replicas up to which each worker keeps a connection to each of them.
pub(crate) const PEERS_READY: usize = 16;
/// The longest pause before a replica that takes no connection is tried again, while nothing is asked of it.
pub(crate) const PEER_REFUSED_MOST: Duration = Duration::from_secs(60);
/// How long one lives on the listener's side.
pub(crate) const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The head of a question of a replica: it comes in one packet.
pub(crate) const PEER_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The body of a notice: names of one repository.
pub(crate) const PEER_NOTICE_BYTES: usize = 64 * KIB;
/// Jobs of operators that are done for other replicas at a time.
pub(crate) const PEER_ORDERS: usize = 4;
/// How long an answer of a name server is awaited, each of the two times that it is asked.
pub(crate) const SRV_PATIENCE: Duration = Duration::from_secs(2);

// The store behind the cache.

/// Default of `cache.store.region`: AWS's own default, which most other servers take for any.
pub(crate) const BUCKET_REGION: &str = "us-east-1";
/// Default of `cache.store.keep_for`.
pub(crate) const BUCKET_KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// The least `cache.store.keep_for`: uses are noted each quarter of it, and a sweep comes once a day.
pub(crate) const BUCKET_KEEP_FOR_LEAST: Duration = Duration::from_secs(2 * 24 * 3600);
/// Default of `cache.store.max_size`.
pub(crate) const BUCKET_BYTES: u64 = 2 * 1024 * 1024 * 1024 * 1024;
/// Default of `cache.store.max_object`.
pub(crate) const BUCKET_OBJECT: u64 = 20 * 1024 * 1024 * 1024;
/// A part of a larger blob, and the length from which a blob is sent in parts. All parts but the last are equally long, since
/// R2 wants that; two of them are in memory for each blob under way.
pub(crate) const BUCKET_PART: u64 = 16 * MIB as u64;
/// The longest object: S3 takes 10,000 parts.
pub(crate) const BUCKET_OBJECT_MOST: u64 = 10_000 * BUCKET_PART;
/// Content that waits to be stored at a time. What is more is dropped: it is stored when it is next got from an upstream.
pub(crate) const BUCKET_WAITING: usize = 4096;
/// The longest blob of which a part is served once the whole has come from the store, and has been proved: within a second or two.
pub(crate) const BUCKET_PARTED: u64 = 256 * MIB as u64;
/// How often the notes of removals by other replicas are looked for.
pub(crate) const BUCKET_NOTES: Duration = Duration::from_secs(60);
/// A tag's record is written anew when the upstream's word there is older, or when the tag has moved.
pub(crate) const BUCKET_TAG_AGE: Duration = Duration::from_secs(3600);
/// Default of `cache.store.hedge`: a store within the site begins to send within some ten milliseconds.
pub(crate) const BUCKET_HEDGE: Duration = Duration::from_millis(250);
/// Default of `cache.store.timeout`.
pub(crate) const BUCKET_TIMEOUT: Duration = Duration::from_secs(3);

// Files that the configuration names.

/// The configuration file itself.
pub(crate) const CONFIGURATION_BYTES: u64 = 1024 * 1024;
/// A file put in by `${file:PATH}`.
pub(crate) const INTERPOLATED_FILE_BYTES: u64 = 64 * 1024;
/// A PEM file: a bundle of all public roots is 250 KiB.
pub(crate) const PEM_BYTES: u64 = 4 * 1024 * 1024;
/// A docker `config.json`: some hundred registries, each with a token of a few KiB.
pub(crate) const DOCKER_CONFIG_BYTES: u64 = 1024 * 1024;

// The cache.

/// Blobs up to this size are served from memory: configurations, and the layers of small images.
pub(crate) const SMALL_BLOB_BYTES: u64 = 64 * KIB as u64;
/// The memory of all of them together.
pub(crate) const SMALL_BLOBS_BYTES: u64 = 64 * MIB as u64;
/// Blobs up to this size are written and hashed ahead of larger ones.
pub(crate) const CACHE_SMALL_BYTES: u64 = MIB as u64;
/// The time after which a request passes the cache's disk by.
pub(crate) const DISK_DEADLINE: Duration = Duration::from_secs(3);
/// The most threads that wait for the cache's disk.
pub(crate) const DISK_THREADS: usize = 32;
/// The most jobs that wait for such a thread.
pub(crate) const DISK_WAITING: usize = 1024;
/// The most records and manifests that wait to be written, and their memory.
pub(crate) const DISK_LATER: usize = 16 * 1024;
pub(crate) const DISK_LATER_BYTES: usize = 64 * MIB;
/// The bytes of downloads that the cache holds in memory, for readers and until they are written. Beyond that blobs pass by:
/// the upstream is asked for each client. Not a key: twice as much made no download faster.
pub(crate) const FILLS_BYTES: u64 = 256 * MIB as u64;
/// The most of them that one download has.
pub(crate) const FILL_BYTES: u64 = 12 * MIB as u64;
/// The least.
pub(crate) const FILL_LEAST_BYTES: u64 = 512 * KIB as u64;
/// A download that no client waits for ends if less than [`UNWATCHED_LEAST_BYTES`] come within this time; its beginning is kept.
pub(crate) const UNWATCHED_PERIOD: Duration = Duration::from_secs(60);
/// 16 KiB a second.
pub(crate) const UNWATCHED_LEAST_BYTES: u64 = 60 * 16 * KIB as u64;
/// The most files that wait to be synced before new content passes by: a disk that does not keep up must not make the queue
/// grow without end.
pub(crate) const CACHE_UNSYNCED: usize = 4096;
/// The time at shutdown for leaving and syncing partial downloads.
pub(crate) const CACHE_CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes that an upstream without ranges may send before those that a client has asked for. To get at later ones the whole is
/// downloaded, once for all that ask.
pub(crate) const SKIPPED_BYTES: u64 = MIB as u64;
/// The time for which an upstream that has ignored a range is asked for none.
pub(crate) const RANGES_IGNORED: Duration = Duration::from_secs(60 * 60);
/// How long the end of the process waits for the audit log.
pub(crate) const AUDIT_FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// A blob of which only a part is asked for begins to fill besides, up to this size.
pub(crate) const FILLED_BESIDES_BYTES: u64 = 64 * MIB as u64;
/// How long an upstream's word that a repository holds something is believed: what was removed there, or made private,
/// is still served here for as long.
pub(crate) const RECORD_BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
/// Content that is said to be damaged is hashed again at most so often: it is up to 10 GiB to read, for one wrong word
/// of an upstream about its length.
pub(crate) const CACHE_VERIFY_PAUSE: Duration = Duration::from_secs(10 * 60);
/// The time for which a partial stays open after a part of it has come: the next is asked for soon.
pub(crate) const PARTIAL_LINGERS: Duration = Duration::from_secs(10);
/// The partials that stay open so at a time: each holds a file.
pub(crate) const PARTIALS_LINGERING: usize = 256;
/// The time for which a reader of a part waits for one of the streams of its blob, before one more is begun for it.
pub(crate) const STREAM_WAIT: Duration = Duration::from_secs(10);
/// The most partial blobs that are left at a time: each is read when the disk is scanned.
pub(crate) const CACHE_PARTIALS: usize = 4096;

/// A partial blob of fewer bytes is not left to be resumed: it comes again in no time, and each is two files.
#[cfg(not(test))]
pub(crate) const CACHE_PARTIAL_LEAST: u64 = MIB as u64;

/// Tests leave less, to be quick.
#[cfg(test)]
pub(crate) const CACHE_PARTIAL_LEAST: u64 = 2;
/// A record that its upstream has not confirmed for so long goes: it was not pulled for a month after the day on which
/// it was believed unasked.
pub(crate) const RECORD_LIFE: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The word of an upstream that it has served some bytes is noted anew when it is used after this time, a quarter of
/// [`RECORD_LIFE`]: what is in use never goes, and few uses write.
pub(crate) const SERVED_RENEWED: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// Records may take a fortieth of `cache.max_size`; in small caches up to a quarter, as long as that is less than this:
/// a thousand records, those of some 100 images.
pub(crate) const RECORDS_LEAST: u64 = 4 * 1024 * 1024;
/// Uploads whose copies are on their way into the cache: each is a file, and some come and are never finished.
pub(crate) const PUSHES: u64 = 256;
/// The time that such a copy waits for the next part of its upload. Registries keep theirs for longer, and clients go
/// on at once.
pub(crate) const PUSH_IDLE: Duration = Duration::from_secs(60 * 60);
/// The bytes of one such copy that may wait in memory to be written before the copy is given up: half a second of a slow
/// disk, while the upload goes on.
pub(crate) const PUSH_BACKLOG_BYTES: usize = 8 * MIB;
/// The bytes of all copies together that may wait so.
pub(crate) const PUSH_BACKLOG_ALL_BYTES: usize = 128 * MIB;
/// How long the answer to a push waits for its copy to be checked and in place. Mostly it is already; a client that
/// pulls at once should find it.
pub(crate) const PUSH_SETTLED: Duration = Duration::from_millis(500);

/// Between two requests for the keys of an OIDC issuer: a token may name any key.
pub(crate) const OIDC_REFETCH_PAUSE: Duration = Duration::from_secs(30);
/// The longest file of an issuer's keys, in bytes.
pub(crate) const KEY_SET_BYTES: u64 = 256 * KIB as u64;
/// The longest document of an issuer, in bytes.
pub(crate) const OIDC_DOCUMENT_BYTES: usize = 256 * KIB;
/// How long a login waits for them.
pub(crate) const OIDC_FETCH_DEADLINE: Duration = Duration::from_secs(10);

// Certificates by ACME.

/// Default of `server.tls.acme.directory`: Let's Encrypt.
pub(crate) const ACME_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Default of `server.tls.acme.path`.
pub(crate) const ACME_PATH: &str = "/var/lib/dockgate/acme";
/// The pause after a failed order, which doubles with each further one: Let's Encrypt refuses names of which five validations
/// have failed within an hour.
pub(crate) const ACME_RETRY: Duration = Duration::from_secs(2 * 60);
/// The longest such pause: of a certificate of six days, a third is two days.
pub(crate) const ACME_RETRY_MOST: Duration = Duration::from_secs(3 * 3600);
/// The pause after an order that succeeded: the certificate of a server whose clock is wrong may be due at once.
pub(crate) const ACME_RENEWAL_LEAST: Duration = Duration::from_secs(30);
/// Between two looks at the certificate: the clock may be set, and another process may have renewed it.
pub(crate) const ACME_LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// An order, from the first request to the certificate. Let's Encrypt takes some ten seconds.
pub(crate) const ACME_ORDER_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// The wait for a server to validate the names, or to sign.
pub(crate) const ACME_POLL_DEADLINE: Duration = Duration::from_secs(2 * 60);
