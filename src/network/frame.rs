//! How one request or response lies on a stream: its length in four bytes, most significant first, then its bytes.
//!
//! The length is checked against a cap before anything else happens, and memory grows with the bytes that arrive: who
//! announces ten megabytes has to send five before twice that is taken.

use std::io;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::{Limits, MAX_REQUEST_BYTES_HELD};

/// The memory taken for a message before its first byte has arrived.
const FIRST_STEP: usize = 16 * 1024;
/// Received requests are paid for in units of this many bytes.
const BUDGET_UNIT: usize = 1024;

/// A received request and the share of the memory budget that it holds until it is answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    /// None for a request of our own, which nobody has to be protected from.
    pub(super) share: Option<OwnedSemaphorePermit>,
}

/// Reads and writes requests and responses, whatever the protocol's name.
#[derive(Debug, Clone)]
pub(super) struct FrameCodec {
    request_limit: usize,
    response_limit: usize,
    budget: Arc<Semaphore>,
}

impl FrameCodec {
    pub(super) fn new(limits: &Limits) -> Self {
        let budget = Arc::new(Semaphore::new(MAX_REQUEST_BYTES_HELD / BUDGET_UNIT));
        Self { request_limit: limits.request_bytes, response_limit: limits.response_bytes, budget }
    }
}

impl request_response::Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut share: Option<OwnedSemaphorePermit> = None;
        let bytes = read(io, self.request_limit, |more| {
            let units = u32::try_from(more.div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.budget)
                .try_acquire_many_owned(units)
                .map_err(|_| io::Error::other("too many bytes of requests are held already"))?;
            match &mut share {
                Some(held) => held.merge(permit),
                None => share = Some(permit),
            }
            Ok(())
        })
        .await?;
        Ok(Request { bytes, share })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.response_limit, |_| Ok(())).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, self.request_limit, &request.bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, self.response_limit, &response).await
    }
}

/// Reads one message of at most `limit` bytes; `pay` is asked before each growth of the buffer.
async fn read<T>(io: &mut T, limit: usize, mut pay: impl FnMut(usize) -> io::Result<()> + Send) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).await?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > limit {
        let message = format!("a message of {length} bytes is announced, {limit} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let held = bytes.len();
        let target = length.min((2 * held).max(FIRST_STEP));
        pay(target - held)?;
        bytes.reserve_exact(target - held);
        bytes.resize(target, 0);
        // Truncated inside, a message is malformed; an end before its length prefix is a refusal to send one.
        io.read_exact(&mut bytes[held..]).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, "the message is truncated"),
            _ => error,
        })?;
    }
    Ok(bytes)
}

/// Writes one message.
async fn write<T>(io: &mut T, limit: usize, bytes: &[u8]) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= limit).ok_or_else(|| {
        let message = format!("a message of {} bytes is to be sent, {limit} are allowed", bytes.len());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use libp2p::request_response::Codec;

    const NAME: StreamProtocol = StreamProtocol::new("/syncline/sync/1");

    fn codec() -> FrameCodec {
        FrameCodec::new(&Limits { request_bytes: 100_000, response_bytes: 200_000, ..Limits::default() })
    }

    fn announcing(length: u32, body: &[u8]) -> Cursor<Vec<u8>> {
        Cursor::new([&length.to_be_bytes()[..], body].concat())
    }

    #[tokio::test]
    async fn messages_up_to_their_cap_arrive_as_sent() {
        for length in [0, 1, FIRST_STEP - 1, FIRST_STEP, FIRST_STEP + 1, 100_000] {
            let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut stream = Cursor::new(Vec::new());
            let request = Request { bytes: sent.clone(), share: None };
            codec().write_request(&NAME, &mut stream, request).await.unwrap();
            stream.set_position(0);
            assert_eq!(codec().read_request(&NAME, &mut stream).await.unwrap().bytes, sent);
        }
    }

    #[tokio::test]
    async fn a_length_over_the_cap_is_refused_before_anything_is_read() {
        let error = codec().read_request(&NAME, &mut announcing(100_001, &[])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = codec().read_response(&NAME, &mut announcing(u32::MAX, &[])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(codec().read_response(&NAME, &mut announcing(100_001, &vec![0; 100_001])).await.is_ok());
    }

    #[tokio::test]
    async fn a_lying_length_takes_memory_only_for_what_arrives() {
        let mut taken = 0;
        let mut stream = announcing(50_000_000, &[1; 1000]);
        let pay = |more| {
            taken += more;
            Ok(())
        };
        let error = read(&mut stream, 100_000_000, pay).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(taken, FIRST_STEP);
    }

    #[tokio::test]
    async fn the_end_of_a_stream_before_a_message_is_told_from_a_truncated_one() {
        let error = codec().read_response(&NAME, &mut Cursor::new(Vec::new())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = codec().read_response(&NAME, &mut announcing(5, b"abc")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn requests_pay_for_the_memory_they_hold() {
        let mut codec = codec();
        let whole = codec.budget.available_permits();
        let request = codec.read_request(&NAME, &mut announcing(50_000, &vec![0; 50_000])).await.unwrap();
        assert!(codec.budget.available_permits() <= whole - 50_000 / BUDGET_UNIT);
        drop(request);
        assert_eq!(codec.budget.available_permits(), whole);
        codec.budget.forget_permits(whole);
        assert!(codec.read_request(&NAME, &mut announcing(1, &[0])).await.is_err());
    }

    #[tokio::test]
    async fn what_is_over_the_cap_is_not_sent() {
        let mut stream = Cursor::new(Vec::new());
        let error = codec().write_response(&NAME, &mut stream, vec![0; 200_001]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(stream.into_inner().is_empty());
    }
}
