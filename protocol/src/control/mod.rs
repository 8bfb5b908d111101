//! What hosts and the control server say to each other, and why a host may believe it. Pure: keys and times come in.
//!
//! A host obeys signatures, never a server: [`trust`] decides about the files a server hands out, [`request`] says how a
//! host signs what it sends, [`join`] is what a person carries from one to the other. The rest are messages.
//!
//! | method and path | signed by | answer |
//! |---|---|---|
//! | POST /v1/enroll with [`enroll::Enroll`] | token and host | 201, 200 (again) [`enroll::Enrolled`]; 202 [`enroll::Pending`] |
//! | POST /v1/enroll with a receipt | host | 202 [`enroll::Pending`]; 200 [`enroll::Enrolled`] |
//! | POST /v1/report with [`report::Report`], `Prefer: wait=N` | host | [`report::Reported`] |
//! | GET /s/STACK/head.json | host | [`trust::Head`], `ETag`, 304 |
//! | GET /s/STACK/root/N.json | host | a DSSE envelope |
//! | GET /s/STACK/obj/SHA256 | host | exact bytes with that digest |
//!
//! Every other answer is [`problem::Problem`] (RFC 9457). Unknown fields of answers are passed over.

pub mod dsse;
pub mod enroll;
pub mod ids;
pub mod join;
pub mod key;
pub mod problem;
pub mod report;
pub mod request;
pub mod statement;
pub mod time;
pub mod trust;

/// `head.json`, bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// `root/N.json`, bytes.
pub const ROOT_BYTES_MAX: usize = 64 * 1024;
/// Steps of the chain of roots in one look.
pub const ROOTS_MAX: usize = 1_024;
/// State object, bytes: as a document that a person wrote.
pub const STATE_BYTES_MAX: usize = crate::stack::DOCUMENT_BYTES_MAX;
/// Env object, bytes.
pub const ENV_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Body of a report after decompression, bytes: 2,000 services and a batch of events.
pub const REPORT_BYTES_MAX: usize = 2 * 1024 * 1024;
pub const EVENTS_PER_REPORT_MAX: usize = 500;
/// Events of one report, bytes.
pub const EVENTS_BYTES_MAX: usize = 256 * 1024;
/// One event's `data`, bytes.
pub const EVENT_DATA_BYTES_MAX: usize = 4 * 1024;
/// `text` of one event. A longer one is kept cut off, and says so: it is for people, and no reason to lose the event.
pub const EVENT_TEXT_BYTES_MAX: usize = 4 * 1024;
pub const ENROLL_BYTES_MAX: usize = 16 * 1024;
/// An answer that is no file, bytes.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Between the clocks of a host and of its server, seconds; beyond it a request is refused with the server's time.
pub const CLOCK_WINDOW_SECS: u64 = 300;
/// How long a report may be held, seconds.
pub const HOLD_SECS_MAX: u64 = 300;
/// What changes the behaviour of agents gets the next number: 1, the protocol as first released.
pub const CAPABILITY: u32 = 1;
/// Starts that a host can have counted by itself: one a second for 136 years.
pub const BOOT_PLAUSIBLE_MAX: u64 = 1 << 32;
/// The last start there is: the plausible ones, and one for every millisecond of 8,900 years (what a server takes grows by
/// that, so that there is always one above what somebody with a copied key has counted up to).
pub const BOOT_MAX: u64 = 1 << 48;
/// What a version may require of a host.
pub const FEATURES: [&str; 1] = ["git"];
