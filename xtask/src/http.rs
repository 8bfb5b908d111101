//! Just enough HTTP/1.1 to measure with: one connection, requests one after another, bodies by Content-Length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longer than the edge holds a request; whatever takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Most bytes of an answer's body: a status of 50 instances has some 30 KiB.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// The server ends the connection after this answer.
    closes: bool,
}

/// A kept connection through the edge, made anew only where the last answer announced its end.
#[derive(Debug)]
pub(crate) struct Kept {
    port: u16,
    open: Option<BufReader<TcpStream>>,
}

impl Kept {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, open: None }
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        let mut connection = match self.open.take() {
            Some(open) => open,
            None => connect(self.port)?,
        };
        send(connection.get_mut(), method, path, body, "keep-alive")?;
        let answer = receive(&mut connection)?;
        if !answer.closes {
            self.open = Some(connection);
        }
        Ok(answer)
    }
}

/// A request on a connection of its own.
pub(crate) fn ask(port: u16, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let mut connection = connect(port)?;
    send(connection.get_mut(), method, path, body, "close")?;
    receive(&mut connection)
}

/// GET at the manager's socket.
pub(crate) fn ask_manager(socket: &Path, path: &str) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    send(&mut stream, "GET", path, b"", "close")?;
    receive(&mut BufReader::new(stream))
}

fn connect(port: u16) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connect to the edge")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(BufReader::new(stream))
}

fn send(stream: &mut impl Write, method: &str, path: &str, body: &[u8], connection: &str) -> Result<()> {
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request).context("send the request")
}

fn receive(stream: &mut impl BufRead) -> Result<Answer> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no status line: {first:?}"))?;
    let (mut length, mut closes) = (0, false);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = value.parse().context("read the Content-Length")?,
            Some(("connection", value)) => closes = value == "close",
            Some(_) => {}
        }
    }
    if length > BODY_BYTES_MAX {
        bail!("a body of {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("read the body")?;
    Ok(Answer { status, body: String::from_utf8(body).context("read the body as text")?, closes })
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if stream.take(16 * 1024).read_line(&mut line).context("read the answer")? == 0 {
        bail!("the connection ended before the answer");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        let mut bytes: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhiHTTP";
        let answer = receive(&mut bytes).unwrap();
        assert_eq!((answer.status, answer.body.as_str(), answer.closes), (200, "hi", true));
        assert_eq!(bytes, b"HTTP");
        assert!(receive(&mut &b""[..]).is_err());
    }
}
