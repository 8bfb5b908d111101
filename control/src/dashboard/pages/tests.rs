//! Every page is written once with a sane fleet and once with one whose every text is an attack.

use askama::Template;

use super::sample::{self, NOW_MS, Say};
use super::*;
use crate::dashboard::frame::{Frame, Section};
use crate::dashboard::text;
use crate::model::{EventFilter, EventPage};

fn frame(say: Say) -> Frame {
    Frame::new(text::word(&say("shop")), Section::Stacks, &text::word(&say("owner")), NOW_MS)
        .live("/stacks/stk_shopaaaa")
}

fn every_page(say: Say) -> Vec<(&'static str, String)> {
    let (stack, host, events) = (sample::stack(say), sample::host(say), sample::events(say));
    let troubled = std::slice::from_ref(&host);
    let overview = &stack.overview;
    let filter = events::FilterView {
        stack: text::word(&say("")),
        host: text::word(&say("")),
        service: text::word(&say("")),
        severity: text::word(&say("")),
        kind: text::word(&say("")),
        since: text::word(&say("")),
        before: None,
    };
    let asked = EventFilter { before: Some(3), ..EventFilter::default() };
    let mut events_page =
        events::Page::of(frame(say), filter, &asked, &EventPage { events: events.clone(), newest: 9, more: true });
    events_page.stacks = vec![(sample::STACK.into(), text::word(&say("shop")))];
    events_page.failed = Some(text::sentence(&say("not understood")));
    let typed =
        draft::Typed { failed: Some(text::sentence(&say("not saved"))), reason: say("why"), ..draft::Typed::default() };
    let mut clean_draft = sample::draft(say);
    clean_draft.problems.clear();
    clean_draft.diff = Some(sample::diff(say));
    let (version, tokens) = (sample::version(say), sample::tokens(say));
    let key = || "key".to_owned();
    let login = entry::Login {
        frame: frame(say),
        name: text::word(&say("owner")),
        next: "/".into(),
        failed: Some(text::sentence(&say("wrong"))),
    };
    let pages: Vec<(&'static str, askama::Result<String>)> = vec![
        ("stacks", stacks::Page::of(frame(say), vec![overview.clone()], Some(text::sentence(&say("taken")))).render()),
        ("stack", stack::Page::of(frame(say), &stack, troubled, &events).render()),
        ("service", service::Page::of(frame(say), overview, &sample::service(say), troubled).render()),
        (
            "hosts",
            hosts::Page::of(frame(say), &stack.hosts, vec![(sample::STACK.into(), text::word(&say("shop")))], key())
                .render(),
        ),
        ("host", host::Page::of(frame(say), &host, &events, Some(text::sentence(&say("no")))).render()),
        ("events", events_page.render()),
        ("draft-problems", draft::Page::of(frame(say), overview, (&sample::draft(say), None), typed, key()).render()),
        (
            "draft",
            draft::Page::of(
                frame(say),
                overview,
                (&clean_draft, Some(&sample::preview(say))),
                draft::Typed::default(),
                key(),
            )
            .render(),
        ),
        ("versions", versions::List::of(frame(say), overview, std::slice::from_ref(&version.row), 1).render()),
        ("version", versions::One::of(frame(say), overview, &version, &sample::diff(say)).render()),
        ("rollback", versions::Rollback::of(frame(say), overview, &version.row, &sample::diff(say), key()).render()),
        ("join", join::Page::of(frame(say), overview, &stack.hosts, &tokens, None, key()).render()),
        ("audit", audit::Page::of(frame(say), &sample::audit(say)).render()),
        ("login", login.render()),
        ("account", account_page(say).render()),
    ];
    pages.into_iter().map(|(name, html)| (name, html.unwrap())).collect()
}

fn account_page(say: Say) -> account::Page {
    let session = crate::auth::SessionRow {
        source: "192.0.2.1".into(),
        agent: say("Mozilla/5.0"),
        created_ms: NOW_MS - 9_000_000,
        seen_ms: NOW_MS,
        own: true,
    };
    let token = crate::auth::ApiTokenRow {
        id: "apt_0123".into(),
        name: say("ci"),
        scope: crate::auth::Scope::Read,
        created_unix_ms: NOW_MS - 9_000_000,
        expires_unix_ms: NOW_MS + 9_000_000,
        seen_unix_ms: None,
        revoked_unix_ms: None,
    };
    account::Page::of(frame(say), &[session], &[token])
}

/// Tags of a page with their attributes, as a browser would cut them: quoted values may hold anything but their quote.
fn tags(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let mut quote = None;
        let end = rest[at..].char_indices().find(|(_, char)| {
            match (quote, char) {
                (None, '"' | '\'') => quote = Some(*char),
                (Some(open), char) if open == *char => quote = None,
                _ => {}
            }
            quote.is_none() && *char == '>'
        });
        let end = at + end.expect("every tag ends").0;
        found.push(rest[at + 1..end].to_owned());
        rest = &rest[end + 1..];
    }
    found
}

/// The shape of a page: its tags without the values in them.
fn shape(html: &str) -> Vec<String> {
    let name = |tag: &String| tag.split([' ', '\n', '/']).next().unwrap_or_default().to_owned();
    tags(html).iter().filter(|tag| !tag.starts_with('/')).map(name).collect()
}

#[test]
fn no_text_of_a_host_or_a_person_becomes_markup() {
    let (sane, attacked) = (every_page(sample::plain), every_page(sample::hostile));
    for ((name, _), (_, html)) in sane.iter().zip(&attacked) {
        assert!(!html.contains("<script>"), "{name}: a script of others");
        // The draft stands in its editor as it was typed.
        let misleads = html.contains('\u{1b}') || html.contains('\u{202e}');
        assert!(!misleads || name.starts_with("draft"), "{name}: escapes of a terminal, marks of direction");
        let own = ["meta", "link", "script", "svg", "a", "img"];
        for tag in tags(html) {
            let word = tag.split([' ', '\n']).next().unwrap_or_default().to_owned();
            assert!(word != "img" && word != "style" && word != "iframe", "{name}: <{tag}>");
            assert!(!tag.contains(" onerror=") || tag.contains("&#"), "{name}: <{tag}>");
            assert!(
                !tag.contains(" style=") && !tag.contains(" onclick="),
                "{name}: inline style or script in <{tag}>"
            );
            if own.contains(&word.as_str()) {
                assert!(!tag.contains("href=\"javascript:") && !tag.contains("src=\"http"), "{name}: <{tag}>");
            }
        }
    }
}

#[test]
fn a_page_of_attacks_has_no_element_that_a_sane_one_lacks() {
    let kinds = |pages: &[(&str, String)]| -> std::collections::BTreeSet<String> {
        pages.iter().flat_map(|(_, html)| shape(html)).collect()
    };
    assert_eq!(kinds(&every_page(sample::hostile)), kinds(&every_page(sample::plain)));
}

#[test]
fn ids_in_a_page_are_unique_and_every_field_has_a_name() {
    for (name, html) in every_page(sample::plain) {
        let mut ids = std::collections::BTreeSet::new();
        for tag in tags(&html) {
            if let Some(id) = tag.split(" id=\"").nth(1).and_then(|rest| rest.split('"').next()) {
                assert!(ids.insert(id.to_owned()), "{name}: the id {id} stands twice");
            }
            let is_field = ["input ", "select ", "textarea ", "button"].iter().any(|word| tag.starts_with(word));
            let is_plain = tag.contains("type=\"hidden\"") || tag.contains("id=\"pause\"");
            assert!(!is_field || is_plain || tag.contains("data-testid="), "{name}: no test id: <{tag}>");
        }
    }
}

#[test]
fn a_silent_host_is_silent_and_never_stopped() {
    let mut host = sample::host(sample::plain);
    host.row.presence = crate::model::Presence::Silent { since_unix_ms: NOW_MS - 46 * 60_000 };
    let html = host::Page::of(frame(sample::plain), &host, &[], None).render().unwrap();
    assert!(html.contains("data-status=\"silent\"") && html.contains("46 min ago"));
    assert!(!html.contains("stopped"), "nobody knows that");
}

#[test]
fn what_is_broken_since_when_why_and_what_changed_stand_on_the_stacks_page() {
    let (stack, host) = (sample::stack(sample::plain), sample::host(sample::plain));
    let html = stack::Page::of(frame(sample::plain), &stack, &[host], &[]).render().unwrap();
    for words in [
        "api on web-2: not ready within 60 s",
        "5 min ago",
        "ECONNREFUSED 10.0.0.7:5432",
        "b81e77a use the new payment provider",
        "DATABASE_URL changed",
        "martha",
    ] {
        assert!(html.contains(words), "{words}");
    }
    if let Some(dir) = std::env::var_os("PAGES_DUMP") {
        for (name, html) in every_page(sample::plain) {
            let html = html.replace("\"/assets/", "\"assets/");
            std::fs::write(std::path::Path::new(&dir).join(format!("{name}.html")), html).unwrap();
        }
    }
}
