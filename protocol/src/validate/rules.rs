//! Rules of single text values: `Err` is what was expected, in words.

/// Longest path, host or reference.
const TEXT_BYTES_MAX: usize = 1024;

pub(super) type Rule = Result<(), String>;

fn ensure(holds: bool, expected: &str) -> Rule {
    if holds { Ok(()) } else { Err(expected.to_owned()) }
}

/// An external path prefix, or a probe's path.
pub(super) fn url_path(text: &str) -> Rule {
    ensure(text.len() <= TEXT_BYTES_MAX, "a path of at most 1024 bytes")?;
    ensure(text.starts_with('/'), "a path that starts with `/`")?;
    ensure(!text.contains("//"), "a path without `//`")?;
    ensure(!text.split('/').any(|segment| segment == "." || segment == ".."), "a path without `.` and `..`")?;
    let plain = |c: char| c.is_ascii_graphic() && !"%\\\"<>^`{|}#".contains(c);
    ensure(text.chars().all(plain), "a path of plain characters: no blanks, `%`, `#`, `\\` or quotes")
}

/// As [`url_path`], and nothing after it.
pub(super) fn route_path(text: &str) -> Rule {
    url_path(text)?;
    ensure(!text.contains('?'), "a path without a query")
}

pub(super) fn host_name(text: &str) -> Rule {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    ensure(
        text.len() <= 253 && text.split('.').all(label),
        "a host name such as \"api.example.com\": no port, no wildcard, no trailing dot",
    )
}

/// https, ssh and file URLs and the scp-like form; never a password in it. The text may hold a secret: callers do not
/// quote it.
pub(super) fn repo(text: &str) -> Rule {
    const FORMS: &str = "an https, ssh or file URL, or git@host:path";
    ensure(
        text.len() <= TEXT_BYTES_MAX && !text.starts_with('-') && text.chars().all(|c| c.is_ascii_graphic()),
        FORMS,
    )?;
    let Some((scheme, rest)) = text.split_once("://") else {
        let scp_like = text.split_once(':').is_some_and(|(host, path)| {
            !host.is_empty() && !host.contains('/') && !path.is_empty() && !path.starts_with(['-', ':'])
        });
        return ensure(scp_like, FORMS);
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match scheme {
        "https" => {
            ensure(!authority.contains('@'), "a URL without a user or token in it: name a credential with git_auth")?;
            ensure(!authority.is_empty(), FORMS)
        }
        "ssh" => {
            let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
            ensure(!user.contains(':'), "a URL without a password in it: name a credential with git_auth")?;
            ensure(!authority.is_empty() && !authority.starts_with('-'), FORMS)
        }
        "file" => ensure(authority.is_empty() && rest.starts_with('/'), "file:// and an absolute path"),
        "http" | "git" => Err("https or ssh: anybody on the way could change what this host runs".to_owned()),
        _ => Err(FORMS.to_owned()),
    }
}

/// git-check-ref-format(1), and nothing that git could take for an option.
pub(super) fn reference(text: &str) -> Rule {
    const EXPECTED: &str = "a branch or tag name";
    ensure(!text.is_empty() && text != "@" && text.len() <= TEXT_BYTES_MAX, EXPECTED)?;
    ensure(text.chars().all(|c| c > ' ' && c != '\u{7f}' && !"~^:?*[\\".contains(c)), EXPECTED)?;
    ensure(!text.contains("..") && !text.contains("@{") && !text.contains("//"), EXPECTED)?;
    ensure(!text.starts_with(['-', '/']) && !text.ends_with(['/', '.']), EXPECTED)?;
    ensure(!text.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock")), EXPECTED)
}

/// A folder in the repository.
pub(super) fn dir(text: &str) -> Rule {
    const EXPECTED: &str = "a folder in the repository, such as \"apps/api\": relative, without `.` and `..`";
    ensure(!text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control), EXPECTED)?;
    ensure(!text.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part == ".git"), EXPECTED)
}

pub(super) fn command(text: &str) -> Rule {
    ensure(!text.trim().is_empty() && !text.contains('\0'), "a shell command")
}

pub(super) fn absolute_file(text: &str) -> Rule {
    ensure(text.starts_with('/') && !text.contains('\0') && !text.ends_with('/'), "an absolute path of a file")
}

pub(super) fn variable_name(text: &str) -> Rule {
    let first = text.bytes().next();
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    ensure(
        word && first.is_some_and(|b| !b.is_ascii_digit()),
        "a name of A-Z, a-z, 0-9 and `_` that does not start with a digit",
    )?;
    ensure(!text.starts_with("AGENTD_"), "a name that does not start with AGENTD_, which is agentd's own")
}

/// Never quoted by callers.
pub(super) fn variable_value(text: &str) -> Rule {
    /// Linux takes 128 KiB for one `NAME=value` (MAX_ARG_STRLEN).
    const VALUE_BYTES_MAX: usize = 120 * 1024;
    ensure(!text.contains('\0') && text.len() <= VALUE_BYTES_MAX, "text of at most 120 KiB without NUL bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let good: &[(fn(&str) -> Rule, &[&str])] = &[
            (route_path, &["/", "/api", "/a/b-c_d.e", "/a..b"]),
            (host_name, &["localhost", "api.example.com", "1.example"]),
            (repo, &["https://h/x", "ssh://git@h:22/x", "git@h:x/y", "file:///srv/x.git", "host:path"]),
            (reference, &["main", "feature/x", "v1.2", "refs/heads/main"]),
            (dir, &["a", "apps/api", ".config"]),
            (variable_name, &["A", "_a1"]),
        ];
        for (rule, texts) in good {
            for text in *texts {
                assert_eq!(rule(text), Ok(()), "{text}");
            }
        }
        let bad: &[(fn(&str) -> Rule, &[&str])] = &[
            (route_path, &["", "api", "/a/../b", "/%2e%2e", "//a", "/a b", "/a?x", "/a#b", "/\\", "/./a"]),
            (host_name, &["", "*.example.com", "a..b", "-a", "a:80", "a."]),
            (
                repo,
                &[
                    "",
                    "http://h/x",
                    "https://u:p@h/x",
                    "https://tok@h/x",
                    "ssh://u:p@h/x",
                    "-x",
                    "file://rel",
                    "/abs",
                    "ext::sh",
                ],
            ),
            (reference, &["", "-x", "a..b", "a b", "x.lock", ".x", "a/", "@{u}", "a^"]),
            (dir, &["", "/abs", "a/../b", ".", "a//b", ".git"]),
            (variable_name, &["", "1A", "A-B", "AGENTD_X"]),
        ];
        for (rule, texts) in bad {
            for text in *texts {
                assert!(rule(text).is_err(), "{text}");
            }
        }
    }
}
