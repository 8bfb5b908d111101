//! The client's connection as the HTTP parser sees it. It hands on only whole, checked heads, so that limits on time,
//! size and form hold before any parsing, and every refusal is one of our own answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::errors::{Fault, page};
use super::request::{Refusal, check_head, head_end};

/// Head and small body leave in one segment train; more memory per idle connection buys nothing.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;
/// After a refusal we read and drop this much for this long: closing with unread bytes would destroy the answer.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
const LINGER_READ_BYTES: usize = 2 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// A buffer that grew beyond this for one large head is given back.
const HEAD_BUFFER_KEPT_BYTES: usize = 4 * 1024;

#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// From the end of one request to the first byte of the next.
    pub idle_timeout: Duration,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    pub head_bytes_max: usize,
}

#[derive(Debug)]
pub(super) struct ClientIo {
    stream: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
    limits: HeadLimits,
    phase: Phase,
    /// Deadline of the phase; only looked at in phases that have one.
    timer: Pin<Box<Sleep>>,
    /// A head that came in pieces.
    head: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing of the next request has come.
    Idle,
    /// `head` holds a part of it.
    Head,
    /// `head` is whole and handed on up to `given`.
    Giving { given: usize },
    /// Body, or whatever an upgrade made of it.
    Open,
    /// Answered by us; `left` more bytes are read and dropped.
    Refused { left: usize },
}

impl ClientIo {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, limits: HeadLimits) -> Self {
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // A fresh cell takes its first value.
        let _ = digest.peer_addr.set(Some(peer.into()));
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream),
            digest: Arc::new(digest),
            limits,
            phase: Phase::Idle,
            timer: Box::pin(sleep_until(Instant::now() + limits.idle_timeout)),
            head: Vec::new(),
        }
    }

    /// The request before is answered and its body read to the end.
    pub(super) fn next_request(&mut self, idle_timeout: Duration) {
        self.phase = Phase::Idle;
        self.timer.as_mut().reset(Instant::now() + idle_timeout);
    }

    fn out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().poll(cx).is_ready()
    }

    /// Reads into an empty `buf`; `None` at the end of the stream.
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Option<()>>> {
        ready!(Pin::new(self.stream.get_mut()).poll_read(cx, buf))?;
        Poll::Ready(Ok((!buf.filled().is_empty()).then_some(())))
    }

    /// First bytes of a request: most heads come whole and stay where they are.
    fn poll_idle(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Step>> {
        match self.read(cx, buf)? {
            Poll::Pending if self.out_of_time(cx) => Poll::Ready(Ok(Step::Done)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Ok(Step::Done)),
            Poll::Ready(Some(())) => {
                match whole_head(buf.filled(), 0, self.limits.head_bytes_max) {
                    Ok(Some(Whole { rewritten: None, .. })) => {
                        self.phase = Phase::Open;
                        return Poll::Ready(Ok(Step::Done));
                    }
                    Ok(Some(Whole { rewritten: Some(mut head), end })) => {
                        head.extend_from_slice(&buf.filled()[end..]);
                        self.head = head;
                        self.phase = Phase::Giving { given: 0 };
                    }
                    Ok(None) => {
                        self.head.extend_from_slice(buf.filled());
                        self.phase = Phase::Head;
                        self.timer.as_mut().reset(Instant::now() + self.limits.head_timeout);
                    }
                    Err(refusal) => self.refuse(refusal),
                }
                buf.clear();
                Poll::Ready(Ok(Step::Again))
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Step>> {
        // The deadline is looked at first: a byte now and then must not keep it from being seen.
        if self.out_of_time(cx) {
            self.refuse(Refusal::TooSlow);
            return Poll::Ready(Ok(Step::Again));
        }
        if ready!(self.read(cx, buf)?).is_none() {
            return Poll::Ready(Ok(Step::Done));
        }
        let scanned = self.head.len();
        self.head.extend_from_slice(buf.filled());
        buf.clear();
        match whole_head(&self.head, scanned, self.limits.head_bytes_max) {
            Ok(Some(Whole { rewritten, end })) => {
                if let Some(mut head) = rewritten {
                    head.extend_from_slice(&self.head[end..]);
                    self.head = head;
                }
                self.phase = Phase::Giving { given: 0 };
            }
            Ok(None) => {}
            Err(refusal) => self.refuse(refusal),
        }
        Poll::Ready(Ok(Step::Again))
    }

    fn give(&mut self, given: usize, buf: &mut ReadBuf<'_>) {
        let rest = &self.head[given..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.phase = if count < rest.len() {
            Phase::Giving { given: given + count }
        } else {
            self.head.clear();
            self.head.shrink_to(HEAD_BUFFER_KEPT_BYTES);
            Phase::Open
        };
    }

    fn refuse(&mut self, refusal: Refusal) {
        let answer = page(Fault::Refused(refusal)).closing_response();
        // Nothing is in the send queue at this point but the ends of earlier answers; a client whose queue is full
        // reads none, so it does without this one too.
        let _ = self.stream.get_ref().try_write(&answer);
        let _ = socket2::SockRef::from(self.stream.get_ref()).shutdown(std::net::Shutdown::Write); // closed by the client already, or by this
        self.head = Vec::new();
        self.phase = Phase::Refused { left: LINGER_BYTES_MAX };
        self.timer.as_mut().reset(Instant::now() + LINGER_TIMEOUT);
    }

    fn poll_linger(&mut self, left: usize, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Step>> {
        if self.out_of_time(cx) || left == 0 || ready!(self.read(cx, buf)?).is_none() {
            return Poll::Ready(Ok(Step::Done));
        }
        self.phase = Phase::Refused { left: left.saturating_sub(buf.filled().len()) };
        buf.clear();
        Poll::Ready(Ok(Step::Again))
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// `buf` holds what the parser shall see; empty means the end of the stream.
    Done,
    Again,
}

struct Whole {
    end: usize,
    /// What the parser shall see instead.
    rewritten: Option<Vec<u8>>,
}

fn whole_head(bytes: &[u8], scanned: usize, bytes_max: usize) -> Result<Option<Whole>, Refusal> {
    match head_end(bytes, scanned)? {
        Some(end) if end > bytes_max => Err(Refusal::TooLarge),
        Some(end) => check_head(&bytes[..end]).map(|rewritten| Some(Whole { end, rewritten })),
        None if bytes.len() > bytes_max => Err(Refusal::TooLarge),
        None => Ok(None),
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.phase, Phase::Open) {
            return pin!(self.stream.get_mut()).poll_read(cx, buf);
        }
        debug_assert!(buf.filled().is_empty(), "the parser reads into fresh space; bytes we take back are all ours");
        loop {
            let step = match self.phase {
                Phase::Idle => ready!(self.poll_idle(cx, buf)?),
                Phase::Head => ready!(self.poll_head(cx, buf)?),
                Phase::Refused { left } => ready!(self.poll_linger(left, cx, buf)?),
                Phase::Giving { given } => {
                    self.give(given, buf);
                    Step::Done
                }
                Phase::Open => Step::Done,
            };
            if matches!(step, Step::Done) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientIo {
    async fn shutdown(&mut self) {
        if self.stream.shutdown().await.is_err() {
            // The client is gone already; there is nobody to tell.
            return;
        }
        // A client that is still sending must not lose the answer to a reset.
        let rest = async {
            let mut dropped = [0; LINGER_READ_BYTES];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match self.stream.get_mut().read(&mut dropped).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        // Either way the connection ends here.
        let _ = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
    }
}

impl UniqueID for ClientIo {
    fn id(&self) -> i32 {
        self.stream.get_ref().as_raw_fd()
    }
}

impl Ssl for ClientIo {}

impl GetTimingDigest for ClientIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl Peek for ClientIo {}
