//! `/api/v1`: what people and programs call to run stacks; the dashboard asks the same handle.
//!
//! Owns: paths, bodies and codes. Must never know: who may log in (whoever checks puts a `core::Actor` into the request's
//! extensions), nor how anything is done. Nothing here survives a restart.
//!
//! | method and path below /api/v1 | body | answer |
//! |---|---|---|
//! | GET /stacks | | `[StackOverview]` |
//! | POST /stacks | `NewStack` | 201 `StackOverview` |
//! | GET, PATCH /stacks/S | PATCH: `StackEdit` | `StackDetail`; `StackOverview` |
//! | GET /stacks/S/draft | | `Draft`, `ETag` |
//! | PUT /stacks/S/draft, `If-Match` | text, `application/toml` or `application/json` | `Draft`, `ETag` |
//! | GET /stacks/S/diff?from=V&to=V | a number or `draft` | `Diff` |
//! | GET /stacks/S/preview | | `Preview`: the draft as it would be published now, branches asked for |
//! | POST /stacks/S/versions, `If-Match`, `Idempotency-Key` | `Publish` | 201 `VersionRow`; 409 with `moved` |
//! | GET /stacks/S/versions?before=V&limit=N | | `[VersionRow]` |
//! | GET /stacks/S/versions/V | | `VersionDetail` |
//! | POST /stacks/S/versions/V/rollback, `Idempotency-Key` | `Reason` | 201 `VersionRow` |
//! | POST /stacks/S/hold, /resume | `Reason` | `StackOverview` |
//! | GET, POST /stacks/S/tokens, `Idempotency-Key` | `NewToken` | `[TokenRow]`; 201 `TokenMade` |
//! | POST /tokens/T/revoke | | `TokenRow` |
//! | GET /stacks/S/services/NAME | | `ServiceDetail` |
//! | GET /hosts?stack=S | | `[HostRow]` |
//! | GET, PATCH /hosts/H | PATCH: `HostEdit` | `HostDetail`; `HostRow` |
//! | POST /hosts/H/approve | `Approve` | `HostRow` |
//! | POST /hosts/H/clear-conflict | | `HostRow` |
//! | POST /hosts/H/revoke | `Reason` | `HostRow` |
//! | GET /events?stack=&host=&service=&severity=&kind=&after=&before=&limit= | | `EventPage` |
//! | GET /events/stream?..., `Last-Event-ID` | | SSE of `EventRow` |
//! | GET /audit?before=&limit= | | `AuditPage` |
//! | GET /notices | | `[text]`: what people have to know of the server itself |
//! | POST /backup | `BackupTo` | `BackupMade` |

mod bodies;
mod drafts;
mod events;
mod hosts;
mod routes;
mod stacks;

pub use bodies::{Approve, BackupTo, HostEdit};
pub use routes::{entries, router};
