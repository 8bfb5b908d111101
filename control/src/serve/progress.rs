//! A stream whose reader has to keep reading: an answer that is taken a byte at a time holds no place for ever.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// So long in all may the other side take nothing: a phone in a tunnel comes back within it.
const STALL_MAX: Duration = Duration::from_secs(30);
/// What it takes pays for stalls at this rate, bytes per second: the slowest line that is still one.
const RATE_MIN: u32 = 1_024;

#[derive(Debug)]
pub(super) struct Progress<S> {
    inner: S,
    stall: Stall,
}

#[derive(Debug)]
struct Stall {
    max: Duration,
    /// Not paid for yet.
    owed: Duration,
    since: Option<Instant>,
    /// When all is used up; made at the first stall, which most connections never have.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn over<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<Result<T, Error>>,
        taken: impl Fn(&T) -> usize,
    ) -> Poll<Result<T, Error>> {
        if let Poll::Ready(done) = &polled {
            let paid = done.as_ref().map_or(0, taken);
            self.moved(u32::try_from(paid).unwrap_or(u32::MAX));
            return polled;
        }
        let now = Instant::now();
        if self.since.is_none() {
            self.since = Some(now);
            let at = now + self.max.saturating_sub(self.owed);
            match &mut self.alarm {
                Some(alarm) => alarm.as_mut().reset(at),
                None => self.alarm = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        let rings = self.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(context).is_ready());
        if rings { Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the answer is not being read"))) } else { polled }
    }

    fn moved(&mut self, bytes: u32) {
        let stalled = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.owed = (self.owed + stalled).saturating_sub(Duration::from_secs(1) * bytes / RATE_MIN);
    }
}

impl<S> Progress<S> {
    pub(super) fn new(inner: S) -> Self {
        Self::within(inner, STALL_MAX)
    }

    pub(super) fn within(inner: S, max: Duration) -> Self {
        Self { inner, stall: Stall { max, owed: Duration::ZERO, since: None, alarm: None } }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Progress<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Progress<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        let Self { inner, stall } = self.get_mut();
        let polled = Pin::new(inner).poll_write(context, bytes);
        stall.over(context, polled, |taken| *taken)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let Self { inner, stall } = self.get_mut();
        let polled = Pin::new(inner).poll_write_vectored(context, slices);
        stall.over(context, polled, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Writes 64 KiB to a reader who takes `bytes` every `pause`, through a buffer of 1 KiB.
    async fn write_to(bytes: usize, pause: Duration) -> (Result<(), Error>, Duration) {
        let (near, mut far) = duplex(1_024);
        let mut near = Progress::new(near);
        let begun = Instant::now();
        let reading = async {
            let mut buffer = vec![0; bytes];
            loop {
                tokio::time::sleep(pause).await; // poll: a reader's pace, on a paused clock
                if far.read_exact(&mut buffer).await.is_err() {
                    return;
                }
            }
        };
        let writing = async { near.write_all(&[7; 64 * 1_024]).await };
        let done = tokio::select! {
            done = writing => done,
            () = reading => panic!("the writer is still there"),
        };
        (done, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_drips_is_cut_and_who_is_slow_is_not() {
        let (done, took) = write_to(1, Duration::from_secs(1)).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!((30..40).contains(&took.as_secs()), "{took:?}");
        let (done, took) = write_to(1_024, Duration::from_millis(900)).await;
        assert!(done.is_ok() && took > STALL_MAX, "{took:?}");
        let (done, _) = write_to(64 * 1_024, Duration::from_secs(25)).await;
        assert!(done.is_ok(), "one long stall is nobody's fault");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_cut() {
        let (done, took) = write_to(1, Duration::from_secs(3_600)).await;
        assert_eq!((done.unwrap_err().kind(), took.as_secs()), (ErrorKind::TimedOut, 30));
    }
}
