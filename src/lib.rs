//! dockgate: an authenticating gateway and pull-through cache in front of container registries.
//!
//! This page is the map. Each module's own documentation goes on from here.
//!
//! # The phases of a request
//!
//! ```text
//! accept        server/accept          a connection permit; a worker of its own thread takes the connection
//! TLS, HTTP     server/connection      handshake deadline, header, idle and stall limits, graceful end
//! screen        gateway/screen, host   a request that could be read in two ways, or is for another host: 400, 421
//! tokens        gateway/token          /token and /.well-known/jwks.json end here
//! parse         proto/target           (method, path, query) -> Operation, strictly: 404, 405
//! authenticate  gateway/login, authn   Authorization -> Identity, and what its token grants: 401 with one challenge, 429
//! route         gateway/route          the repository's name -> upstream, and its one canonical name: 404
//! authorize     authz                  (Identity, Operation) -> Permit: 403, or 401 to an anonymous client
//! handle        gateway/blob, ...      one file per resource; asks the cache, else the upstream
//! cache         cache                  hit, stale, join a download, miss; or a bypass, with its reason
//! send          upstream               token, request, redirects, retries, resume; what the answer means
//! rewrite       gateway/rewrite        headers, Location, Link and names in the client's words
//! body          body                   frame by frame at the client's pace, length checked
//! any error     gateway/respond        one exhaustive match -> status, OCI error body; one log line
//! ```
//!
//! [`gateway`]'s `pipeline` is this chart as code. Cache and upstream take a `&Permit`, which only [`authz`] can make: a
//! handler that forgets the check does not compile.
//!
//! # A blob that is not in the cache
//!
//! 1. `gateway/blob` asks the cache with the request's permit, digest and range.
//! 2. The cache checks that this repository holds the digest, which a registry must have confirmed there, and that this
//!    client may read it there.
//! 3. The first request for a missing digest starts a download, which does not end with the client that caused it.
//!    Others for the same digest join it.
//! 4. The download asks the upstream through [`origin`]; [`upstream`] gets a token, follows the redirect to storage and
//!    resumes a broken stream by `Range`.
//! 5. Bytes go into a partial file and a ring of recent frames. A thread hashes them; readers follow at their own pace,
//!    from the ring or from the file.
//! 6. A range waits for the download if its bytes will come soon. Else a download of that part alone puts them into the same file,
//!    for all that want them; the download of the whole passes over parts that are there. Which parts are there is noted beside
//!    the file, never guessed from it. Once half is there the rest is downloaded.
//! 7. The digest is proved once, whole and in order. Until then the last frame is withheld from all readers of the whole; readers of
//!    a part get theirs unproved. Then the file is renamed into the store.
//! 8. A wrong digest or length tears down every reader's response; nothing is kept.
//!
//! # Several replicas
//!
//! 1. With `[peers]` a blob has an owner among the replicas, by its digest, and a repository by its name ([`peers`]).
//! 2. Where the cache would ask the upstream, it asks the members before this one in that order first ([`cache`]'s gate). A
//!    download, a tag's flight and a record are the ordinary ones: only their origin is another.
//! 3. An asked replica answers from its cache, as it would a client, and may ask the upstream; it never asks another replica.
//! 4. A stream that breaks off goes on from the next in order, at that byte, and at last from the upstream.
//! 5. Times of confirmation travel along, and so does the registry's no. A write is told to all before its client has the answer.
//!
//! # A tag
//!
//! 1. `gateway/manifest` asks the cache for the tag, with the client's Accept.
//! 2. A record younger than `tag_ttl` names the digest; its manifest comes from memory or disk.
//! 3. An older record, or none: one request for the tag is sent, whatever number of clients wait. It is a HEAD, which
//!    Docker Hub does not count. Its no is a hint: a GET decides.
//! 4. The same digest makes the record fresh again. Another one is fetched by digest, checked and recorded.
//! 5. If the upstream fails, limits the rate or sends something else than a manifest, the old digest serves until
//!    `stale_if_error`, after a wait of `stale_after` at most. The registry's own 401, 403 or 404 ends it.
//! 6. A push or delete through the gateway raises the repository's generation: an answer that was asked for before is not
//!    recorded.
//! 7. For a client whose Accept excludes the manifest the upstream is asked with that Accept, once for all of its kind.
//!
//! # An upload
//!
//! 1. `POST` begins it at the upstream, whose location is sealed, with repository, identity and time, into the client's
//!    URL. Only the same identity can go on with it, at any replica with the same `secret`.
//! 2. `PATCH` and `PUT` open the handle and stream the body to the upstream's location, frame by frame.
//! 3. With a cache, a copy of the body is written to a spool file on the way and hashed.
//! 4. The final `PUT` names the digest. If the upstream answers 201 and the copy has the digest, the copy becomes the
//!    cached blob, and the repository holds it.
//! 5. The answer's Location and digest are in the client's words, whatever the upstream sent.
//! 6. A manifest is read whole first: one that is too large never reaches the upstream.
//! 7. A client that leaves in the middle of a write counts as having written: what the write may have ended is not
//!    believed any more.
//!
//! # A token
//!
//! 1. A 401 names `/token` and the scope, where clients are asked for tokens (`gateway/challenge`).
//! 2. `gateway/token` authenticates the client as every other path does, and reads its scopes: names as the client means
//!    them become canonical ones. The rules say what of them is granted.
//! 3. [`authn`] signs who, what and until when, with the fingerprint of the user's htpasswd line.
//! 4. With each request that shows the token [`authn`] looks it up among those that it has verified, and looks at its end, at
//!    the revoked ids and at the htpasswd line. [`authz`] asks the rules as for a password, and then what the token grants.
//!
//! # The rooms
//!
//! A module may import those to the left of it in the base, and what its row names. A test (`tests/it/layers`) reads the
//! imports and fails on any other, and on files within a module that import in a circle.
//!
//! ```text
//! base      proto, x509, meaning, config, budget, clock, file_stamp, read_size, worker_id, watchdog, single_flight, body,
//!           json_lines, telemetry, net
//! decide    authn      base                  who asks
//!           authz      base                  what they may do; makes the Permit
//! fetch     upstream   base, Permit          connections, tokens, egress policy, the meaning of answers
//!           cache      base, Permit          content by digest, tags, who may read what; asks an Origin
//!           peers      cache, Permit         the other replicas: whose an object is, asking them, answering them
//!           bucket     upstream, cache       the object store behind the disks of all replicas
//!           origin     upstream, cache       the adapter by which the cache asks an upstream
//!           issuer     upstream, authn       the adapter by which issuers are asked for the keys of their tokens
//! request   gateway    all above             the pipeline
//! edge      server     base                  TCP, TLS, HTTP; knows nothing of registries
//! top       acme       upstream, server      the certificate that an ACME server issues
//!           admin      authn, upstream, cache, gateway, server, acme    health, metrics, dashboard, operators' commands
//!           demo       base                  a registry in memory
//!           app, cli   all                   the wiring; one file per command
//! ```
//!
//! Behind the disks of all replicas there may be an object store ([`bucket`]): what one of them has proved it stores, and what is on
//! no disk is read from there before the upstream is asked, and proved again.
//!
//! A [`budget`] gives out what clients could take without end: connections, requests to an upstream and for its tokens.
//! A permit says which client is charged. Work whose last client has left is cancelled: a [`single_flight`], a download.
//!
//! Each worker is one thread with its own runtime and upstream connections, so that no frame crosses threads. The cache's files
//! are read and written on other threads, each wait with a deadline: a disk that hangs holds up no worker, and is passed by.
//! Should a worker stop all the same, [`watchdog`] tells what it was polling. Three things are decided so:
//!
//! - What a killed process had written is trusted as long as the machine has not booted since. The mark of that is the
//!   machine's, not the volume's: where a volume is put back to an earlier state under a running machine, `dockgate cache verify`
//!   finds what was lost, and so does the hourly scrub in time.
//! - A process whose threads wait in the kernel for a frozen file system has ended for its clients after SIGTERM, but stays as a
//!   zombie until the file system goes on: nothing can kill it before.
//! - Records that the disk cannot take in time are in memory alone, and are asked of the upstream again after a restart.
//!
//! Content that is passed on is never held whole, except manifests, tokens, error bodies, referrers and catalogs, each with a limit in
//! `config/limits`.

pub(crate) mod acme;
pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod authn;
pub(crate) mod authz;
pub(crate) mod body;
pub(crate) mod bucket;
pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod cli;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod file_stamp;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod gateway;
pub(crate) mod issuer;
pub(crate) mod json_lines;
pub(crate) mod meaning;
pub(crate) mod net;
pub(crate) mod origin;
pub(crate) mod peers;
pub(crate) mod proto;
pub(crate) mod read_size;
pub(crate) mod server;
pub(crate) mod single_flight;
pub(crate) mod telemetry;
pub(crate) mod upstream;
pub(crate) mod watchdog;
pub(crate) mod worker_id;
pub(crate) mod x509;

#[doc(hidden)]
pub mod internals;

pub use cli::run;
