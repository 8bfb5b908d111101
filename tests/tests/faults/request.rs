//! Requests no service must see: refused at the edge, which goes on.

use super::{healthy, raw, says, undisturbed};

#[test]
fn ambiguous_and_oversized_requests_are_refused() {
    let mut world = healthy();
    let line = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    for path in ["/good/../secret", "/good/%2e%2e/secret", "/good/%2E./secret", "/good/.%2e", "/%2e/good", "/./good"] {
        let answer = raw(&world, line(path).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        says(&answer, &["x-agentd-reason"]);
    }
    let hostless = raw(&world, b"GET /good HTTP/1.1\r\n\r\n");
    assert!(hostless.starts_with("HTTP/1.1 400 "), "{hostless}");
    says(&hostless, &["Host"]);
    let two_hosts = raw(&world, b"GET /good HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert!(two_hosts.starts_with("HTTP/1.1 400 "), "{two_hosts}");
    let huge = format!("GET /good HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "x".repeat(200_000));
    let huge = raw(&world, huge.as_bytes());
    assert!(huge.starts_with("HTTP/1.1 431 "), "{}", &huge[..huge.len().min(300)]);
    let many = format!("GET /good HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Many: 1\r\n".repeat(500));
    assert!(raw(&world, many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let clash =
        raw(&world, b"POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(clash.starts_with("HTTP/1.1 400 "), "{clash}");
    assert!(raw(&world, line("/good/a..b").as_bytes()).starts_with("HTTP/1.1 200 "), "dots within a name are fine");
    undisturbed(&world);
    world.down();
}
