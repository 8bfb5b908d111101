//! Messages on the control socket: length as u32 little endian, then JSON.

use std::io;
use std::time::Duration;

use agentd_protocol::edge::FRAME_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use futures_util::StreamExt;

use super::Error;
use crate::lifecycle;

const LENGTH_BYTES: usize = 4;
/// A peer that does not read for this long is treated as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Above this, JSON is parsed off the thread that carries requests.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// One control connection.
#[derive(Debug)]
pub(super) struct Link {
    reader: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    writer: OwnedWriteHalf,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .length_field_length(LENGTH_BYTES)
            .max_frame_length(usize::try_from(FRAME_BYTES_MAX).expect("usize has at least 32 bits"))
            .new_codec();
        Self { reader: FramedRead::new(reader, codec), writer }
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), Error> {
        self.send_frame(&encode(message)?).await
    }

    pub(super) async fn send_frame(&mut self, frame: &[u8]) -> Result<(), Error> {
        let written = tokio::time::timeout(WRITE_TIMEOUT, self.writer.write_all(frame)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Error::Connection)
    }

    /// `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, Error> {
        self.reader.next().await.transpose().map_err(Error::Connection)
    }
}

pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(Error::Message)?;
    let bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(bytes).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    frame[..LENGTH_BYTES].copy_from_slice(&length.ok_or(Error::MessageTooLarge { bytes })?.to_le_bytes());
    Ok(frame)
}

pub(super) async fn decode<T: DeserializeOwned + Send + 'static>(bytes: BytesMut) -> Result<T, Error> {
    if bytes.len() <= INLINE_BYTES_MAX {
        return serde_json::from_slice(&bytes).map_err(Error::Message);
    }
    let parsed = lifecycle::spawn_blocking("parse control message", move || serde_json::from_slice(&bytes)).await;
    parsed.expect("parsing does not panic and is not cancelled").map_err(Error::Message)
}
