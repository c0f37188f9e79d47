//! Messages that are ready before they are wanted: parked until their moment, or sent by somebody else.

use barewire_driver::TxQueue;
use barewire_driver::clock::Nanos;
use barewire_driver::pool::Buffer;

use super::seq::Seq;
use super::session::{Flags, Work};
use super::{Message, SessionId, Tcp, TcpError, TcpState, with};

/// A complete message that waits to be released. Where it stands in the stream is decided then, so it follows whatever is sent before. When one of a
/// session's parked messages is released, the others are void.
pub struct Parked {
    message: Message,
    len: u16,
    batch: u32,
}

impl Parked {
    /// The session it is for.
    pub fn session(&self) -> SessionId {
        self.message.session
    }

    /// The message, to be written anew: void or not.
    pub fn into_message(self) -> Message {
        self.message
    }
}

/// The headers of a segment that somebody else will send, a NIC from its own memory for one. Until it is completed or cancelled, the
/// session sends no data.
pub struct Delegated {
    session: SessionId,
    buffer: Buffer,
    header_len: u16,
    len: u16,
    batch: u32,
}

impl Delegated {
    /// The headers: Ethernet, IPv4 and TCP, with the sequence number, acknowledgement and window in place; the IPv4 header's checksum zero, and
    /// TCP's the pseudo-header's sum, for the sender to finish.
    pub fn headers(&self) -> &[u8] {
        self.buffer.get(..usize::from(self.header_len)).unwrap_or_default()
    }

    /// The session it is for.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Bytes of payload that may be sent.
    pub fn len(&self) -> u16 {
        self.len
    }

    /// Never: a segment holds at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sequence number of the first byte (SEG.SEQ).
    pub fn sequence(&self) -> u32 {
        self.word(38)
    }

    /// The acknowledgement (SEG.ACK).
    pub fn acknowledgement(&self) -> u32 {
        self.word(42)
    }

    /// The window as it stands in the header (SEG.WND, not scaled).
    pub fn window(&self) -> u16 {
        (self.word(46) & 0xFFFF) as u16
    }

    fn word(&self, at: usize) -> u32 {
        self.buffer.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
    }
}

impl Tcp {
    /// Parks the first `len` bytes of a message's payload.
    pub fn park(&mut self, message: Message, len: u16) -> Result<Parked, (TcpError, Message)> {
        let Some(session) = self.session(message.session) else {
            return Err((TcpError::NotOpen(TcpState::Closed), message));
        };
        if len == 0 || len > message.room {
            return Err((TcpError::BadLength { most: message.room }, message));
        }
        Ok(Parked { batch: session.cold.batch, message, len })
    }

    /// Sends a parked message and voids its siblings: sequence number, acknowledgement, window and checksum are all that is left to fill in.
    #[inline]
    pub fn release_parked<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        parked: Parked,
    ) -> Result<(), (TcpError, Parked)> {
        let Parked { message, len, batch } = parked;
        let Some(index) = self.find(message.session) else {
            return Err((TcpError::Voided, Parked { message, len, batch }));
        };
        let Self { sessions, shared, .. } = self;
        let Some(session) = sessions.get_mut(index as usize).filter(|session| session.cold.batch == batch) else {
            return Err((TcpError::Voided, Parked { message, len, batch }));
        };
        let Message { session: id, buffer, header_len, room } = message;
        match session.send(&mut Work { now, tx, lane: shared }, buffer, len) {
            Ok(()) => {
                session.cold.batch = batch.wrapping_add(1);
                Ok(())
            }
            Err((error, buffer)) => {
                Err((error, Parked { message: Message { session: id, buffer, header_len, room }, len, batch }))
            }
        }
    }

    /// Walks the way of a send up to the queue, and sends nothing: what that touches is in the caches afterwards.
    #[inline]
    pub fn warm<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, id: SessionId, payload: &[u8]) -> Result<(), TcpError> {
        let index = self.find(id).ok_or(TcpError::NotOpen(TcpState::Closed))?;
        with!(self, index, now, tx, |session, w| session.rehearse(w, payload))
            .unwrap_or(Err(TcpError::NotOpen(TcpState::Closed)))
    }

    /// Hands out the headers of the next segment for `len` bytes that somebody else sends.
    pub fn delegate<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        id: SessionId,
        len: u16,
    ) -> Result<Delegated, TcpError> {
        let index = self.find(id).ok_or(TcpError::NotOpen(TcpState::Closed))?;
        with!(self, index, now, tx, |session, w| {
            let (buffer, header_len) = session.delegate(w, len)?;
            Ok(Delegated { session: id, buffer, header_len, len, batch: session.cold.batch })
        })
        .unwrap_or(Err(TcpError::NotOpen(TcpState::Closed)))
    }

    /// The segment was sent with `payload`, which must be as long as was asked for; from here on the session answers for it. After
    /// [`TcpError::TooManySegments`], try again.
    pub fn delegate_complete<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        mut delegated: Delegated,
        payload: &[u8],
    ) -> Result<(), (TcpError, Delegated)> {
        let start = usize::from(delegated.header_len);
        let len = delegated.len;
        match delegated.buffer.get_mut(start..start + usize::from(len)) {
            Some(place) if payload.len() == usize::from(len) => place.copy_from_slice(payload),
            _ => return Err((TcpError::BadLength { most: len }, delegated)),
        }
        let Some(index) = self.find(delegated.session) else { return Err((TcpError::Voided, delegated)) };
        let Self { sessions, shared, .. } = self;
        let Some(session) = sessions.get_mut(index as usize).filter(|session| session.flags.contains(Flags::DELEGATED))
        else {
            return Err((TcpError::Voided, delegated));
        };
        if shared.sent.available() == 0 {
            // Other sessions may have taken the last one in the meantime.
            return Err((TcpError::TooManySegments, delegated));
        }
        // Others of the batch were meant for the same moment.
        session.cold.batch = delegated.batch.wrapping_add(1);
        let w = &mut Work { now, tx, lane: shared };
        let ack = Seq(delegated.acknowledgement());
        session.delegated(w, delegated.buffer, len, ack);
        session.try_fin(w);
        Ok(())
    }

    /// The segment was not sent.
    pub fn delegate_cancel<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, delegated: Delegated) {
        if let Some(index) = self.find(delegated.session) {
            with!(self, index, now, tx, |session, w| {
                session.flags -= Flags::DELEGATED;
                session.try_fin(w);
            });
        }
    }
}
