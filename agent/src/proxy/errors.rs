//! Answers that come from us: one table of status, reason and words. Pure. Never names an address.

use agentd_protocol::edge::Absent;

use super::request::Refusal;

/// Header that tells our answers from a service's own.
pub(super) const REASON_HEADER: &str = "x-agentd-reason";

/// Everything that makes us answer in a service's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Refused(Refusal),
    /// No snapshot yet.
    NotReady,
    NoRoute,
    /// On the internal listener: no service has this name.
    NoName,
    Absent(Absent),
    /// Every backend refused the connection.
    Unreachable,
    /// A backend closed the connection or sent something that is no HTTP.
    BadAnswer,
    Timeout,
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub status: u16,
    /// Value of [`REASON_HEADER`].
    pub reason: &'static str,
    pub title: &'static str,
    /// `{host}` stands for the host that was asked for.
    pub text: &'static str,
    pub retry_after_s: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Html,
}

impl Page {
    pub(super) fn content_type(form: Form) -> &'static str {
        match form {
            Form::Text => "text/plain; charset=utf-8",
            Form::Html => "text/html; charset=utf-8",
        }
    }

    /// `host` was checked to be one (see `request`), so it needs no escaping.
    pub(super) fn body(&self, form: Form, host: Option<&str>) -> String {
        let Self { status, title, .. } = self;
        let text = self.text.replace("{host}", host.unwrap_or("(no host)"));
        match form {
            Form::Text => format!("{status} {title}\n{text}\n"),
            Form::Html => format!(
                "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{status} {title}</title>\n<h1>{status} {title}</h1>\n<p>{text}</p>\n"
            ),
        }
    }

    /// The whole answer as bytes, for a connection that no parser has seen yet.
    pub(super) fn closing_response(&self) -> Vec<u8> {
        let body = self.body(Form::Text, None);
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{REASON_HEADER}: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
            self.status,
            self.title,
            Self::content_type(Form::Text),
            body.len(),
            self.reason,
        )
        .into_bytes()
    }
}

/// HTML for browsers, text for everybody else.
pub(super) fn form(accept: Option<&str>) -> Form {
    if accept.is_some_and(|accept| accept.contains("text/html")) { Form::Html } else { Form::Text }
}

pub(super) fn page(fault: Fault) -> Page {
    match fault {
        Fault::Refused(refusal) => refused(refusal),
        Fault::NotReady => {
            Page { retry_after_s: Some(1), ..unavailable("not-ready", "This host is starting. Try again in a moment.") }
        }
        Fault::NoRoute => Page {
            status: 404,
            reason: "no-route",
            title: "Not Found",
            text: "No service answers at this address.",
            retry_after_s: None,
        },
        Fault::NoName => Page {
            status: 404,
            reason: "no-name",
            title: "Not Found",
            text: "No service is named {host}. This is the internal listener: it looks at the host name alone, never at \
                   the path, and knows the services of this stack by their names.",
            retry_after_s: None,
        },
        Fault::Absent(absent) => unavailable_because(absent),
        Fault::Unreachable => bad_gateway("backend-unreachable", "The service does not accept connections right now."),
        Fault::BadAnswer => bad_gateway("backend-failed", "The service ended the connection without a valid answer."),
        Fault::Timeout => Page {
            status: 504,
            reason: "backend-timeout",
            title: "Gateway Timeout",
            text: "The service did not answer in time.",
            retry_after_s: None,
        },
        Fault::Internal => Page {
            status: 500,
            reason: "internal",
            title: "Internal Server Error",
            text: "The proxy could not handle this request.",
            retry_after_s: None,
        },
    }
}

fn unavailable_because(absent: Absent) -> Page {
    match absent {
        Absent::Starting => Page {
            retry_after_s: Some(5),
            ..unavailable("starting", "The service is starting. Try again in a few seconds.")
        },
        Absent::Replacing => Page {
            retry_after_s: Some(2),
            ..unavailable("replacing", "The service is being replaced. Try again in a moment.")
        },
        Absent::Failing => {
            Page { retry_after_s: Some(30), ..unavailable("failing", "The service is failing. Try again later.") }
        }
        Absent::Stopped => Page { retry_after_s: Some(120), ..unavailable("stopped", "The service is stopped.") },
        // Asking again is of no use.
        Absent::NoPort => unavailable("no-port", "The service is a worker: it has no port and takes no requests."),
    }
}

fn unavailable(reason: &'static str, text: &'static str) -> Page {
    Page { status: 503, reason, title: "Service Unavailable", text, retry_after_s: None }
}

fn bad_gateway(reason: &'static str, text: &'static str) -> Page {
    Page { status: 502, reason, title: "Bad Gateway", text, retry_after_s: None }
}

fn refused(refusal: Refusal) -> Page {
    let bad = |reason, text| Page { status: 400, reason, title: "Bad Request", text, retry_after_s: None };
    match refusal {
        Refusal::Malformed => bad("malformed", "The request is not well-formed HTTP/1."),
        Refusal::MissingHost => bad("missing-host", "The request has no Host header."),
        Refusal::SeveralHosts => bad("several-hosts", "The request has more than one Host header."),
        Refusal::BadHost => bad("bad-host", "The Host of the request is not a host name."),
        Refusal::BadPath => bad("bad-path", "The path has dot segments, hidden separators or invalid characters."),
        Refusal::Scheme => bad("scheme", "Only http requests are served here."),
        Refusal::Asterisk => bad("asterisk", "The target * is not served here."),
        Refusal::Framing => bad("framing", "Content-Length and Transfer-Encoding are contradictory or not supported."),
        Refusal::Connect => {
            Page { status: 405, title: "Method Not Allowed", ..bad("connect", "This is no forward proxy.") }
        }
        Refusal::TooSlow => Page {
            status: 408,
            title: "Request Timeout",
            ..bad("slow-request", "The request took too long to arrive.")
        },
        Refusal::TooLarge => Page {
            status: 431,
            title: "Request Header Fields Too Large",
            ..bad("large-head", "The request head is too large.")
        },
        Refusal::Version => Page {
            status: 505,
            title: "HTTP Version Not Supported",
            ..bad("version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_retry_after() {
        for (fault, status, retry_after_s) in [
            (Fault::NotReady, 503, Some(1)),
            (Fault::NoRoute, 404, None),
            (Fault::Absent(Absent::Starting), 503, Some(5)),
            (Fault::Absent(Absent::Replacing), 503, Some(2)),
            (Fault::Absent(Absent::Failing), 503, Some(30)),
            (Fault::Absent(Absent::Stopped), 503, Some(120)),
            (Fault::Absent(Absent::NoPort), 503, None),
            (Fault::NoName, 404, None),
            (Fault::Unreachable, 502, None),
            (Fault::BadAnswer, 502, None),
            (Fault::Timeout, 504, None),
            (Fault::Internal, 500, None),
            (Fault::Refused(Refusal::BadPath), 400, None),
            (Fault::Refused(Refusal::Connect), 405, None),
            (Fault::Refused(Refusal::TooSlow), 408, None),
            (Fault::Refused(Refusal::TooLarge), 431, None),
            (Fault::Refused(Refusal::Version), 505, None),
        ] {
            let page = page(fault);
            assert_eq!((page.status, page.retry_after_s), (status, retry_after_s), "{fault:?}");
        }
    }

    #[test]
    fn a_raw_response_states_its_length_and_closes() {
        let raw = String::from_utf8(page(Fault::Refused(Refusal::TooLarge)).closing_response()).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("Connection: close"), "{head}");
    }

    #[test]
    fn browsers_get_html() {
        assert_eq!(form(Some("text/html,application/xhtml+xml;q=0.9")), Form::Html);
        assert_eq!(form(Some("*/*")), Form::Text);
        assert_eq!(form(None), Form::Text);
        assert!(page(Fault::NoRoute).body(Form::Html, None).starts_with("<!doctype html>"));
    }
}
