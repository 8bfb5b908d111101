//! What single texts may look like. Each rule returns the text in its normal form, or what is wrong with it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::open::{Flaw, quote};
use super::{COMMAND_BYTES_MAX, ENV_NAME_BYTES_MAX};
use crate::ids::{Commit, ServiceName};

/// Bytes of a path in a route: far below what proxies take as a request line.
const PATH_BYTES_MAX: usize = 1_024;
/// Bytes of a file name Linux takes (PATH_MAX without the end).
const FILE_BYTES_MAX: usize = 4_095;
const REPO_BYTES_MAX: usize = 2_048;
/// Bytes of a branch or tag: a ref is a file name in git.
const REF_BYTES_MAX: usize = 255;
/// RFC 1035 §2.3.4 without the final dot.
const HOST_BYTES_MAX: usize = 253;

pub(super) fn name(text: &str) -> Result<ServiceName, Flaw> {
    ServiceName::new(text).map_err(|bad| {
        let near = ServiceName::new(text.to_lowercase().replace(['_', '.', ' '], "-")).ok();
        Flaw::of(text, bad.rule).near(near.map(|name| quote(name.as_str())))
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, Flaw> {
    const EXPECTED: &str = "a network such as \"203.0.113.0/24\", or one address";
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| Flaw::of(text, EXPECTED))?,
    };
    if net.prefix_len() == 0 {
        return Err(Flaw::of(text, "a network smaller than everybody; for that, `mode = \"open\"`"));
    }
    if net.addr() != net.network() {
        return Err(Flaw::of(text, EXPECTED).near(Some(quote(&net.trunc().to_string()))));
    }
    Ok(net)
}

pub(super) fn commit(text: &str) -> Result<Commit, Flaw> {
    Commit::new(text).map_err(|bad| {
        let near = Commit::new(text.to_ascii_lowercase()).ok();
        Flaw::of(text, bad.rule).near(near.map(|commit| quote(commit.as_str())))
    })
}

/// A path in a route: no trailing `/` but for the root, so that equal paths are equal texts.
pub(super) fn route_path(text: &str) -> Result<String, Flaw> {
    let path = request_path(text)?;
    let cut = path.strip_suffix('/').unwrap_or(&path);
    Ok(if cut.is_empty() { "/".to_owned() } else { cut.to_owned() })
}

/// A path in a request of our own; a trailing `/` stays, some programs tell the two apart.
pub(super) fn request_path(text: &str) -> Result<String, Flaw> {
    let bad = |expected: &str| Err(Flaw::of(text, expected));
    if !text.starts_with('/') {
        let near = Some(format!("\"/{}\"", text))
            .filter(|near| !text.is_empty() && request_path(&near[1..near.len() - 1]).is_ok());
        return Err(Flaw::of(text, "a path that starts with `/`").near(near));
    }
    if text.len() > PATH_BYTES_MAX {
        return bad("a path of at most 1024 bytes");
    }
    if text.contains("//") {
        return bad("a path without `//`");
    }
    if text.contains(['?', '#']) {
        return bad("a path alone, without `?` or `#`");
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return bad("a path without `.` and `..` segments");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b)) {
        return bad("a path of URL characters, others as %XX");
    }
    if !escapes_are_needed(text) {
        return bad("a path whose %XX stand only for what cannot be written plainly, never for `/`, `.` or `\\`");
    }
    Ok(text.to_owned())
}

/// Whether every `%` starts an escape of a space or of a byte beyond ASCII. Anything else has a second spelling that
/// proxies and programs disagree about.
fn escapes_are_needed(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| {
        let byte = rest.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()).is_some_and(|byte| byte == b' ' || byte >= 0x80)
    })
}

/// A host name, lower case and without trailing dot.
pub(super) fn host(text: &str) -> Result<String, Flaw> {
    const EXPECTED: &str = "a host name such as \"api.example.com\"";
    if text.contains('*') {
        return Err(Flaw::of(text, "one host name; wildcards do not exist, leave the key out for any host"));
    }
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    if let Some((bare, port)) = host.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
        && ServiceName::new(bare.replace('.', "-")).is_ok()
    {
        return Err(Flaw::of(text, "a host name without port").near(Some(quote(bare))));
    }
    let labels = host.split('.').all(|label| ServiceName::new(label).is_ok());
    if labels && host.len() <= HOST_BYTES_MAX { Ok(host.to_owned()) } else { Err(Flaw::of(text, EXPECTED)) }
}

/// A repository address. It may hold a password, so no flaw ever quotes it.
pub(super) fn repo(text: &str) -> Result<String, Flaw> {
    const FORMS: &str = "an https, ssh or file URL, or user@host:path";
    let bad = |found: &str, expected: &str| Err(Flaw::plain(found, expected));
    if text.is_empty() {
        return bad("an empty text", FORMS);
    }
    if text.len() > REPO_BYTES_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) || text.starts_with('-')
    {
        return bad("an address with spaces, control characters, a leading `-` or over 2048 bytes", FORMS);
    }
    let Some((scheme, rest)) = text.split_once("://") else { return scp_like(text) };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let secret = match scheme {
        "ssh" => user.is_some_and(|user| user.contains(':')),
        _ => user.is_some(),
    };
    if secret {
        return bad(
            "an address with a user or password in it",
            "none there: name a credential of the host in `git_auth`",
        );
    }
    match scheme {
        "http" | "git" => {
            bad("an unencrypted address", "https or ssh: whoever stands in between could change the code that is run")
        }
        "https" | "ssh" if text.contains(['?', '#']) => bad("an address with `?` or `#`", "a repository address alone"),
        "https" | "ssh" if !is_host_and_port(host) || path.is_empty() => bad("an address without host or path", FORMS),
        "https" | "ssh" => Ok(text.to_owned()),
        "file" if !authority.is_empty() => bad("a file URL with a host", "file:///path"),
        "file" if path.is_empty() || path.split('/').any(|part| part == "..") => {
            bad("a file URL without path or with `..`", "file:///path")
        }
        "file" => Ok(text.to_owned()),
        _ => bad("an address of another kind", FORMS),
    }
}

/// `user@host:path`, as ssh and git write it.
fn scp_like(text: &str) -> Result<String, Flaw> {
    let forms = "an https, ssh or file URL, or user@host:path";
    if text.starts_with('/') {
        return Err(Flaw::plain("a path", forms).near(Some("file:///path")));
    }
    let Some((user, rest)) = text.split_once('@') else {
        return Err(Flaw::plain("an address of another kind", forms));
    };
    let (host, path) = rest.split_once(':').unwrap_or((rest, ""));
    if user.contains(':') || rest.contains('@') {
        let expected = "none there: name a credential of the host in `git_auth`";
        return Err(Flaw::plain("an address with a password in it", expected));
    }
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let fits = plain(user) && !host.starts_with('-') && plain(host) && !path.is_empty() && !path.starts_with('-');
    if fits { Ok(text.to_owned()) } else { Err(Flaw::plain("an address of another kind", forms)) }
}

fn is_host_and_port(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').unwrap_or(("", rest));
            let port = if after.is_empty() { Some("1") } else { after.strip_prefix(':') };
            (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, "1"), |(name, port)| (name, port));
            (host(name).is_ok(), Some(port))
        }
    };
    name && port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// A branch or tag by the rules of git-check-ref-format(1), and never something git could take for an option.
pub(super) fn git_ref(text: &str) -> Result<String, Flaw> {
    if Commit::new(text.to_ascii_lowercase()).is_ok() {
        return Err(Flaw::of(text, "a branch or tag; a commit stands under `commit`").near(Some("commit")));
    }
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let fits = text.len() <= REF_BYTES_MAX
        && !text.starts_with('-')
        && text != "@"
        && text.split('/').all(component)
        && !text.ends_with('.')
        && !text.contains("..")
        && !text.contains("@{")
        && !text.chars().any(|c| c.is_ascii_control() || " ~^:?*[\\".contains(c));
    if fits { Ok(text.to_owned()) } else { Err(Flaw::of(text, "a branch or tag as git takes it")) }
}

/// A folder in the repository; `None` is its root.
pub(super) fn dir(text: &str) -> Result<String, Flaw> {
    let cut = text.strip_suffix('/').unwrap_or(text);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git");
    let fits = text.len() <= FILE_BYTES_MAX && cut.split('/').all(part) && !text.chars().any(char::is_control);
    if fits {
        Ok(cut.to_owned())
    } else {
        Err(Flaw::of(text, "a folder in the repository, relative and without `.` or `..`; leave it out for the root"))
    }
}

/// A folder of the release below `dir`; `None` is `dir` itself.
pub(super) fn root(text: &str) -> Result<Option<String>, Flaw> {
    const EXPECTED: &str = "a folder below `dir`, relative and without `..`, or \".\" for `dir` itself";
    if matches!(text, "." | "./") {
        return Ok(None);
    }
    dir(text).map(Some).map_err(|_| Flaw::of(text, EXPECTED))
}

/// A file below `root`.
pub(super) fn fallback(text: &str) -> Result<String, Flaw> {
    let flaw = || Flaw::of(text, "a file below `root`, relative and without `.` or `..`");
    let file = dir(text).map_err(|_| flaw())?;
    // No trailing `/`: that would be a folder. Hidden files are never served.
    if text.ends_with('/') || file.split('/').any(|part| part.starts_with('.')) { Err(flaw()) } else { Ok(file) }
}

pub(super) fn git_auth(text: &str) -> Result<String, Flaw> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    // Not quoted: whoever misreads the key writes the credential itself here.
    let flaw = || Flaw::plain("another text", "the name of a credential: 1 to 64 of letters, digits, `-`, `.` and `_`");
    if fits { Ok(text.to_owned()) } else { Err(flaw()) }
}

pub(super) fn command(text: &str) -> Result<String, Flaw> {
    let expected = "a shell command";
    if text.trim().is_empty() {
        return Err(Flaw::plain("a blank text", expected));
    }
    if text.contains('\0') {
        return Err(Flaw::plain("a text with a NUL character", expected));
    }
    if text.len() > COMMAND_BYTES_MAX {
        return Err(Flaw::plain(format!("a text of {} bytes", text.len()), format!("at most {COMMAND_BYTES_MAX}")));
    }
    Ok(text.to_owned())
}

/// A file on the host. Not quoted: whoever misreads the key writes variables here.
pub(super) fn env_file(text: &str) -> Result<String, Flaw> {
    let parts = text.strip_prefix('/').map(|rest| rest.split('/').any(|part| part == ".." || part == "."));
    let fits = parts == Some(false)
        && !text.ends_with('/')
        && text.len() <= FILE_BYTES_MAX
        && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Flaw::plain("another text", "an absolute path on the host, without `..`"))
    }
}

/// Why a variable cannot have this name.
pub(super) fn env_name(text: &str) -> Result<(), Flaw> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Flaw::plain("an invalid name", "letters, digits and `_`, not starting with a digit"));
    }
    if text.len() > ENV_NAME_BYTES_MAX {
        return Err(Flaw::plain("a name too long", format!("at most {ENV_NAME_BYTES_MAX} bytes")));
    }
    if text.starts_with("AGENTD_") {
        return Err(Flaw::plain("a reserved name", "a name that does not start with `AGENTD_`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(rule: fn(&str) -> Result<T, Flaw>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(rule(text).is_ok(), "{text} was refused");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn paths_have_one_spelling() {
        let bad = [
            "", "api", "//", "/a//b", "/a/../b", "/..", "/.", "/a/.", "/a?b", "/a#b", "/%2e%2e/", "/a%2Fb", "/a%",
            "/%zz", "/a b", "/ä", "/%61", "/a\\b", "/%5c", "/%00",
        ];
        check(route_path, &["/", "/a", "/a.b/c", "/a%20b", "/%C3%A4", "/-/healthy"], &bad);
        assert_eq!(route_path("/api/").unwrap(), "/api");
        assert_eq!(route_path("/").unwrap(), "/");
        assert_eq!(request_path("/health/").unwrap(), "/health/");
    }

    #[test]
    fn hosts_are_names() {
        let long = format!("{}.com", ["a".repeat(60).as_str(); 5].join("."));
        let bad = ["", "*.example.com", "a..b", "a_b", "-a", "a.com:80", "a/b", "[::1]", "ä.com", &long];
        check(host, &["localhost", "api.example.com", "API.Example.com", "203.0.113.1", "a.example."], &bad);
        assert_eq!(host("API.Example.com.").unwrap(), "api.example.com");
    }

    #[test]
    fn repositories_are_encrypted_or_local_and_hold_no_secret() {
        let good = [
            "https://git.example.com/shop/api",
            "https://git.example.com:8443/a.git",
            "ssh://git@git.example.com:22/a",
            "git@git.example.com:shop/api.git",
            "file:///srv/git/api.git",
            "https://[::1]:8443/a",
        ];
        let bad = [
            "",
            "http://git.example.com/a",
            "git://git.example.com/a",
            "https://u:p@git.example.com/a",
            "https://token@git.example.com/a",
            "ssh://u:p@h/a",
            "u:p@h:a",
            "ext::sh -c x",
            "ssh://-oProxyCommand=x/a",
            "git@-oProxyCommand=x:a",
            "-u@h:a",
            "file://host/a",
            "file:///../a",
            "/srv/git/api",
            "https:///a",
            "https://h",
            "ftp://h/a",
            "https://h/a?token=x",
            "a b",
            "https://h:99999/a",
        ];
        check(repo, &good, &bad);
        for text in bad.iter().filter(|text| text.len() > 8) {
            let flaw = repo(text).unwrap_err();
            assert!(!format!("{} {}", flaw.found, flaw.expected).contains(text), "{text}");
        }
    }

    #[test]
    fn refs_are_what_git_takes() {
        let bad = [
            "",
            "-f",
            "@",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "a\u{7f}",
            "0123456789abcdef0123456789abcdef01234567",
        ];
        check(git_ref, &["main", "refs/heads/main", "v1.2.3", "feature/a-b", "a@b", "0123456"], &bad);
    }

    #[test]
    fn folders_files_and_commands() {
        check(dir, &["a", "apps/api", "apps/"], &["", ".", "..", "/a", "a/../b", "a//b", "a/.git", "./a", "a\nb"]);
        check(root, &[".", "./", "dist", "a/b/"], &["", "..", "/dist", "a/../b", "a//b"]);
        assert_eq!((root(".").unwrap(), root("dist/").unwrap()), (None, Some("dist".to_owned())));
        check(fallback, &["index.html", "app/index.html"], &["", ".", "/index.html", "../a", "app/", ".env", "a/.b/c"]);
        check(env_file, &["/etc/agentd/a.env"], &["", "a", "/a/../b", "/a/", "/", "/a\0b"]);
        check(command, &["x", "a\nb"], &["", " \n", "a\0"]);
        check(git_auth, &["shop-key"], &["", "a b", "-----BEGIN KEY-----\n"]);
        check(env_name, &["A", "_a1", "PORT"], &["", "1A", "A-B", "A=B", "AGENTD_X", "ä"]);
    }
}
