//! Pages that only show: each asks for what it needs, and hands it to a pure view.

use agentd_protocol::api::Severity;
use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::ids::{ServiceName, Version};
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::answer::{Answer, notice, ok};
use super::frame::{Frame, Section};
use super::pages;
use super::routes::Face;
use crate::auth::{Secret, Viewer};
use crate::clock::now_unix_ms;
use crate::core::Error;
use crate::model::{EventFilter, HostDetail, HostRow, Side};

/// Hosts whose problems a page tells in full; a stack that is broken on a hundred hosts is mostly broken alike.
const TROUBLED_MAX: usize = 5;
/// Events at the end of another page.
const LAST_EVENTS: u32 = 10;
/// Of the page of events, and of others that list.
const PAGE_ROWS: u32 = 100;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Did {
    did: Option<String>,
}

/// A name in an address that is none is a page that is not there.
pub(crate) fn named<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::not_found(what))
}

pub(crate) fn frame(title: impl Into<String>, section: Section, viewer: &Viewer) -> Frame {
    Frame::new(title, section, &viewer.user.name, now_unix_ms())
}

pub(crate) fn fresh_key() -> String {
    Secret::draw().text()
}

pub(crate) async fn stacks(State(face): State<Face>, viewer: Viewer, Query(did): Query<Did>) -> Answer {
    let frame = frame("Stacks", Section::Stacks, &viewer)
        .live("/")
        .noted(notice(did.did.as_deref()))
        .about_server(face.control.notices());
    ok(&pages::stacks::Page::of(frame, face.control.stacks().await?, None))
}

pub(crate) async fn stack(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Query(did): Query<Did>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let detail = face.control.stack(&id).await?;
    let troubled = troubled(&face, &detail.hosts).await?;
    let filter = EventFilter { stack: Some(id.clone()), limit: Some(LAST_EVENTS), ..EventFilter::default() };
    let events = face.control.events(filter).await?;
    let title = super::text::word(&detail.overview.name);
    let frame = frame(title, Section::Stacks, &viewer).live(format!("/stacks/{id}")).noted(notice(did.did.as_deref()));
    ok(&pages::stack::Page::of(frame, &detail, &troubled, &events.events))
}

/// The few hosts in trouble that a page tells about.
async fn troubled(face: &Face, hosts: &[HostRow]) -> Result<Vec<HostDetail>, Error> {
    let mut details = Vec::new();
    for host in hosts.iter().filter(|host| host.problem.is_some()).take(TROUBLED_MAX) {
        details.push(face.control.host(&host.id).await?);
    }
    Ok(details)
}

pub(crate) async fn service(
    State(face): State<Face>,
    viewer: Viewer,
    Path((stack, service)): Path<(String, String)>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let name: ServiceName = named(&service, "this service")?;
    let (detail, service) = (face.control.stack(&id).await?, face.control.service(&id, &name).await?);
    let troubled = troubled(&face, &detail.hosts).await?;
    let frame = frame(name.as_str(), Section::Stacks, &viewer).live(format!("/stacks/{id}/services/{name}"));
    ok(&pages::service::Page::of(frame, &detail.overview, &service, &troubled))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HostsQuery {
    stack: String,
}

pub(crate) async fn hosts(State(face): State<Face>, viewer: Viewer, Query(query): Query<HostsQuery>) -> Answer {
    let stack: Option<StackId> = query.stack.parse().ok();
    let hosts = face.control.hosts(stack.as_ref()).await?;
    let chosen = stack.map(|stack| stack.to_string()).unwrap_or_default();
    let address = if chosen.is_empty() { "/hosts".to_owned() } else { format!("/hosts?stack={chosen}") };
    let frame = frame("Hosts", Section::Hosts, &viewer).live(address).about_server(face.control.notices());
    ok(&pages::hosts::Page::of(frame, &hosts, stack_names(&face).await?, chosen))
}

async fn stack_names(face: &Face) -> Result<Vec<(String, String)>, Error> {
    let stacks = face.control.stacks().await?;
    Ok(stacks.iter().map(|stack| (stack.id.to_string(), super::text::word(&stack.name))).collect())
}

pub(crate) async fn host(
    State(face): State<Face>,
    viewer: Viewer,
    Path(host): Path<String>,
    Query(did): Query<Did>,
) -> Answer {
    let id: HostId = named(&host, "this host")?;
    let page = host_page(&face, &viewer, &id, did.did.as_deref(), None).await?;
    ok(&page)
}

pub(crate) async fn host_page(
    face: &Face,
    viewer: &Viewer,
    id: &HostId,
    did: Option<&str>,
    failed: Option<String>,
) -> Result<pages::host::Page, Error> {
    let detail = face.control.host(id).await?;
    let filter = EventFilter { host: Some(id.clone()), limit: Some(LAST_EVENTS), ..EventFilter::default() };
    let events = face.control.events(filter).await?;
    let title = super::text::word(&detail.row.name);
    let frame = frame(title, Section::Hosts, viewer).live(format!("/hosts/{id}")).noted(notice(did));
    Ok(pages::host::Page::of(frame, &detail, &events.events, failed))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EventsQuery {
    stack: String,
    host: String,
    service: String,
    severity: String,
    kind: String,
    since: String,
    before: String,
}

pub(crate) async fn events(State(face): State<Face>, viewer: Viewer, Query(query): Query<EventsQuery>) -> Answer {
    let (filter, faults) = read_filter(&query);
    let page = face.control.events(filter.clone()).await?;
    let view = pages::events::FilterView {
        stack: query.stack,
        host: query.host,
        service: query.service,
        severity: query.severity,
        kind: query.kind,
        since: query.since,
        before: filter.before,
    };
    let mut frame = frame("Events", Section::Events, &viewer).about_server(face.control.notices());
    if view.before.is_none() {
        frame = frame.live(view.address(None));
    } else {
        frame = frame.live(view.address(view.before));
    }
    let mut page = pages::events::Page::of(frame, view, &filter, &page);
    page.stacks = stack_names(&face).await?;
    let hosts = face.control.hosts(filter.stack.as_ref()).await?;
    page.hosts = hosts.iter().map(|host| (host.id.to_string(), super::text::word(&host.name))).collect();
    page.failed = (!faults.is_empty()).then(|| format!("not understood, and left out: {}", faults.join(", ")));
    ok(&page)
}

/// What can be read of it; the names of the fields that cannot.
fn read_filter(query: &EventsQuery) -> (EventFilter, Vec<&'static str>) {
    let mut faults = Vec::new();
    let filter = EventFilter {
        stack: field(&query.stack, "stack", &mut faults),
        host: field(&query.host, "host", &mut faults),
        service: field(&query.service, "service", &mut faults),
        severity: match query.severity.as_str() {
            "" | "info" => None,
            "warn" => Some(Severity::Warn),
            "error" => Some(Severity::Error),
            _ => {
                faults.push("severity");
                None
            }
        },
        kind: Some(query.kind.trim().to_owned()).filter(|kind| !kind.is_empty()),
        before: field(&query.before, "before", &mut faults),
        since_unix_ms: since(&query.since, &mut faults),
        after: None,
        limit: Some(PAGE_ROWS),
    };
    (filter, faults)
}

fn field<T: std::str::FromStr>(text: &str, name: &'static str, faults: &mut Vec<&'static str>) -> Option<T> {
    let text = text.trim();
    let read = text.parse().ok();
    if read.is_none() && !text.is_empty() {
        faults.push(name);
    }
    read
}

/// `2026-09-01`, `2026-09-01T12:00`, with `Z` or without: UTC either way.
fn since(text: &str, faults: &mut Vec<&'static str>) -> Option<u64> {
    let text = text.trim().trim_end_matches('Z');
    if text.is_empty() {
        return None;
    }
    let at = text.parse::<jiff::civil::DateTime>().ok();
    let at = at.or_else(|| Some(text.parse::<jiff::civil::Date>().ok()?.at(0, 0, 0, 0)));
    let ms = at.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok()).map(|at| at.timestamp().as_millisecond());
    let ms = ms.and_then(|ms| u64::try_from(ms).ok());
    if ms.is_none() {
        faults.push("since");
    }
    ms
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Before {
    before: Option<u64>,
    did: Option<String>,
}

pub(crate) async fn audit(State(face): State<Face>, viewer: Viewer, Query(query): Query<Before>) -> Answer {
    let page = face.control.audit(query.before, PAGE_ROWS).await?;
    ok(&pages::audit::Page::of(frame("Audit", Section::Audit, &viewer), &page))
}

pub(crate) async fn versions(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Query(query): Query<Before>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let detail = face.control.stack(&id).await?;
    let versions = face.control.versions(&id, query.before.map(Version), PAGE_ROWS).await?;
    let title = format!("Versions of {}", super::text::word(&detail.overview.name));
    let frame = frame(title, Section::Stacks, &viewer).noted(notice(query.did.as_deref()));
    ok(&pages::versions::List::of(frame, &detail.overview, &versions, PAGE_ROWS))
}

pub(crate) async fn version(
    State(face): State<Face>,
    viewer: Viewer,
    Path((stack, version)): Path<(String, String)>,
    Query(did): Query<Did>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let number = Version(named(&version, "this version")?);
    let overview = face.control.stack(&id).await?.overview;
    let detail = face.control.version(&id, number).await?;
    let before = Version(number.0.saturating_sub(1));
    let diff = face.control.diff(&id, Side::Version(before), Side::Version(number)).await?;
    let title = format!("Version {number} of {}", super::text::word(&overview.name));
    let frame = frame(title, Section::Stacks, &viewer)
        .live(format!("/stacks/{id}/versions/{number}"))
        .noted(notice(did.did.as_deref()));
    ok(&pages::versions::One::of(frame, &overview, &detail, &diff))
}

pub(crate) async fn join(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Query(did): Query<Did>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let page = join_page(&face, &viewer, &id, None).await?;
    let frame = page.frame.clone().live(format!("/stacks/{id}/join")).noted(notice(did.did.as_deref()));
    ok(&pages::join::Page { frame, ..page })
}

pub(crate) async fn join_page(
    face: &Face,
    viewer: &Viewer,
    id: &StackId,
    made: Option<&crate::model::TokenMade>,
) -> Result<pages::join::Page, Error> {
    let detail = face.control.stack(id).await?;
    let tokens = face.control.tokens(id).await?;
    let title = format!("Join a host to {}", super::text::word(&detail.overview.name));
    let frame = frame(title, Section::Stacks, viewer);
    Ok(pages::join::Page::of(frame, &detail.overview, &detail.hosts, &tokens, made, fresh_key()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_as_far_as_it_can_be() {
        let query = EventsQuery {
            stack: "stk_abcd".into(),
            host: "nonsense".into(),
            severity: "warn".into(),
            since: "2026-09-01T12:00Z".into(),
            kind: " build ".into(),
            ..EventsQuery::default()
        };
        let (filter, faults) = read_filter(&query);
        assert_eq!(faults, ["host"]);
        assert_eq!((filter.severity, filter.since_unix_ms), (Some(Severity::Warn), Some(1_788_264_000_000)));
        assert_eq!((filter.kind.as_deref(), filter.host), (Some("build"), None));
        let mut faults = Vec::new();
        assert_eq!(since("2026-09-01", &mut faults), Some(1_788_220_800_000));
        assert_eq!((since("yesterday", &mut faults), faults), (None, vec!["since"]));
    }
}
