//! A vfio-user stream: messages with the file descriptors that come along, each wait bounded.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as System;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::protocol::{HEADER, Header, MAX_FDS};

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The other side closed it, between messages or in one.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side sent a size that cannot be, or more descriptors than a message carries.
    #[error("the other side sent what is no message")]
    Malformed,
    /// The other side neither sends nor takes anything.
    #[error("the other side does not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Somebody asked to stop waiting.
    #[error("the wait was ended")]
    Stopped,
    /// The operating system's answer.
    #[error("the connection failed: {0}")]
    System(#[from] System),
}

/// A message that arrived: its header and its descriptors. The payload is in the buffer that was given.
#[derive(Debug)]
pub struct Message {
    /// The header.
    pub header: Header,
    /// The file descriptors that came along, in order.
    pub fds: Vec<OwnedFd>,
}

/// One end of a vfio-user connection.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    /// Becomes readable when waiting is to end.
    stop: Option<OwnedFd>,
}

impl Stream {
    /// Wraps a connected socket. Waits end early when `stop` becomes readable.
    pub fn new(socket: UnixStream, stop: Option<OwnedFd>) -> Self {
        Self { socket, stop }
    }

    /// Waits for a message: at most `idle` for it to begin, and `limit` for it to end. Its payload goes to `payload`.
    pub fn receive(
        &self,
        payload: &mut Vec<u8>,
        idle: Option<Duration>,
        limit: Duration,
    ) -> Result<Message, StreamError> {
        let mut bytes = [0; HEADER];
        let mut fds = Vec::new();
        let begun = self.receive_some(&mut bytes, &mut fds, idle)?;
        self.fill(&mut bytes[begun..], &mut fds, limit)?;
        let header = Header::parse(&bytes).ok_or(StreamError::Malformed)?;
        payload.clear();
        payload.resize(header.payload_len(), 0);
        self.fill(payload, &mut fds, limit)?;
        Ok(Message { header, fds })
    }

    fn fill(&self, mut into: &mut [u8], fds: &mut Vec<OwnedFd>, limit: Duration) -> Result<(), StreamError> {
        while !into.is_empty() {
            let received = self.receive_some(into, fds, Some(limit))?;
            into = &mut into[received..];
        }
        Ok(())
    }

    fn receive_some(
        &self,
        into: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        limit: Option<Duration>,
    ) -> Result<usize, StreamError> {
        let start = Instant::now();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
                Ok(message) if message.bytes == 0 => return Err(StreamError::Closed),
                Ok(message) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(received) = message {
                            fds.extend(received);
                        }
                    }
                    return if fds.len() <= MAX_FDS { Ok(message.bytes) } else { Err(StreamError::Malformed) };
                }
                Err(System::AGAIN) => self.wait(PollFlags::IN, start, limit)?,
                Err(System::INTR) => {}
                Err(System::CONNRESET) => return Err(StreamError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a message with its descriptors, waiting at most `limit` for the other side to take it.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>], limit: Duration) -> Result<(), StreamError> {
        let start = Instant::now();
        let mut sent = 0;
        while sent < message.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &[IoSlice::new(&message[sent..])], &mut control, flags) {
                Ok(bytes) => sent += bytes,
                Err(System::AGAIN) => self.wait(PollFlags::OUT, start, Some(limit))?,
                Err(System::INTR) => {}
                Err(System::PIPE | System::CONNRESET) => return Err(StreamError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, wanted: PollFlags, start: Instant, limit: Option<Duration>) -> Result<(), StreamError> {
        let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
        if let (Some(limit), Some(Duration::ZERO)) = (limit, left) {
            return Err(StreamError::Timeout(limit));
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut events = vec![PollFd::from_borrowed_fd(self.socket.as_fd(), wanted)];
        events.extend(self.stop.as_ref().map(|stop| PollFd::new(stop, PollFlags::IN)));
        match poll(&mut events, left.as_ref()) {
            Ok(_) if events.get(1).is_some_and(|stop| !stop.revents().is_empty()) => Err(StreamError::Stopped),
            Ok(_) | Err(System::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
