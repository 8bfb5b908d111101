//! Before somebody is in: logging in, and the set-up link.

use askama::Template;

use super::super::frame::{Frame, Live, Section};

#[derive(Debug, Template)]
#[template(path = "login.html")]
pub(crate) struct Login {
    pub(crate) frame: Frame,
    pub(crate) name: String,
    /// Where to go afterwards: a path of this server.
    pub(crate) next: String,
    pub(crate) failed: Option<String>,
}

/// No `Debug`: it holds the link's secret.
#[derive(Template)]
#[template(path = "setup.html")]
pub(crate) struct SetUp {
    pub(crate) frame: Frame,
    pub(crate) secret: String,
    pub(crate) name: String,
    /// The account is there: the link sets another password.
    pub(crate) again: bool,
    pub(crate) faults: Vec<String>,
    pub(crate) chars_min: usize,
}

impl std::fmt::Debug for SetUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetUp").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether a path is one of this server's pages: nobody is led away by a link that was prepared for them.
pub(crate) fn own_path(next: Option<&str>) -> String {
    let plain = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            && path.len() <= 512
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    next.filter(plain).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_pages_of_this_server_alone() {
        assert_eq!(own_path(Some("/stacks/stk_abcd?x=1")), "/stacks/stk_abcd?x=1");
        for bad in ["https://evil.example", "//evil.example", "/\\evil.example", "stacks", "", "/a b", "/\u{e9}"] {
            assert_eq!(own_path(Some(bad)), "/", "{bad}");
        }
        assert_eq!(own_path(None), "/");
    }
}
