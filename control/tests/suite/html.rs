//! HTML as our pages write it, cut into its tags; anything else than that narrow way of writing fails.

#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) tags: Vec<Tag>,
    pub(crate) text: String,
}

/// # Panics
/// Where a browser could see anything else in it than what is found here.
pub(crate) fn read(html: &str) -> Page {
    let mut page = Page::default();
    let mut rest = html.strip_prefix("<!doctype html>").expect("it begins as HTML does");
    while let Some(at) = rest.find('<') {
        page.text.push_str(&rest[..at]);
        assert!(!rest[..at].contains('>'), "a `>` outside of tags: {}", &rest[..at]);
        let (tag, after) = tag(&rest[at + 1..]);
        rest = after;
        if !tag.name.starts_with('/') {
            page.tags.push(tag);
        }
    }
    assert!(!rest.contains('>'), "a `>` outside of tags: {rest}");
    page.text.push_str(rest);
    page
}

fn tag(inside: &str) -> (Tag, &str) {
    let end = inside.find([' ', '>', '\n']).expect("a tag ends");
    let name = inside[..end].to_owned();
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte))
    };
    assert!(plain(name.trim_start_matches('/')), "an element called {name:?}");
    let mut tag = Tag { name, attributes: Vec::new() };
    let mut rest = inside[end..].trim_start();
    while !rest.starts_with('>') {
        let end = rest.find(['=', ' ', '>', '\n']).expect("an attribute ends");
        let name = rest[..end].to_owned();
        assert!(plain(&name), "an attribute called {name:?} of <{}>", tag.name);
        rest = &rest[end..];
        let mut value = "";
        if let Some(valued) = rest.strip_prefix('=') {
            let quote = valued.chars().next().filter(|char| "\"'".contains(*char)).expect("values stand in quotes");
            let inner = &valued[1..];
            let close = inner.find(quote).expect("a value ends");
            (value, rest) = (&inner[..close], &inner[close + 1..]);
            assert!(rest.starts_with([' ', '>', '\n']), "something stands right behind the value of {name}");
        }
        tag.attributes.push((name, value.to_owned()));
        rest = rest.trim_start();
    }
    (tag, &rest[1..])
}

#[test]
fn pages_are_cut_as_a_browser_cuts_them() {
    let page = read("<!doctype html>\n<a href=\"/x\" hidden>a &#60;b&#62;</a><br>");
    assert_eq!(page.tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["a", "br"]);
    assert_eq!(page.tags[0].attributes, [("href".into(), "/x".into()), ("hidden".into(), String::new())]);
    assert!(page.text.contains("a &#60;b&#62;"));
    for bad in ["<a href=x>", "<a href=\"x\"y>", "<svg/onload=\"x\">", "a > b", "<A>", "<a b\u{202e}=\"\">"] {
        assert!(std::panic::catch_unwind(|| read(&format!("<!doctype html>{bad}"))).is_err(), "{bad}");
    }
}
