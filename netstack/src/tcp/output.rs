//! How a session sends: data behind prepared headers, acknowledgements, FIN, and segments once more.

use barewire_driver::clock::Nanos;
use barewire_driver::pool::{BUFFER_LEN, Buffer};
use barewire_driver::{ChecksumOffload, MacAddress, TxMeta, TxQueue};

use super::TcpError;
use super::options::{self, Options};
use super::report::TcpHappening;
use super::seq::Seq;
use super::session::{Flags, Marks, NEVER, Sent, SentFrame, Session, Waiting, Work};
use super::slab::Link;
use super::state::{Cause, TcpState};
use super::table::Key;
use crate::checksum;
use crate::wire::{IPV4, TCP, flag};

/// What is prepared of a session's headers: Ethernet, IPv4, ports.
pub(super) const PREPARED: usize = 14 + 20 + 4;
/// Ethernet, IPv4 and TCP without options.
pub(super) const HEADERS: usize = 14 + 20 + 20;
/// The largest payload: what a packet of 1,500 bytes leaves without options.
pub(super) const MAX_MSS: u16 = 1460;

const _: () = assert!(HEADERS + MAX_MSS as usize + options::TIMESTAMPS_LEN <= BUFFER_LEN);

/// The addresses below TCP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    /// Our station, and the next hop's.
    pub macs: (MacAddress, MacAddress),
    /// Our address.
    pub ip: u32,
}

impl Addresses {
    /// Headers with everything in place but what differs from segment to segment: all of a connection's have one source address (MUST-45).
    pub fn headers(&self, key: Key) -> [u8; PREPARED] {
        const DONT_FRAGMENT: u8 = 0x40;
        const TTL: u8 = 64;
        let remote = key.remote();
        let mut headers = [0; PREPARED];
        headers[0..6].copy_from_slice(&self.macs.1.0);
        headers[6..12].copy_from_slice(&self.macs.0.0);
        headers[12..14].copy_from_slice(&IPV4.to_be_bytes());
        headers[14] = 0x45;
        // The identification may be anything in a packet that is never fragmented (RFC 6864, 4.1).
        headers[20] = DONT_FRAGMENT;
        headers[22] = TTL;
        headers[23] = TCP;
        headers[26..30].copy_from_slice(&self.ip.to_be_bytes());
        headers[30..34].copy_from_slice(&remote.ip().octets());
        headers[34..36].copy_from_slice(&key.local_port().to_be_bytes());
        headers[36..38].copy_from_slice(&remote.port().to_be_bytes());
        headers
    }

    /// The pseudo-header's sum without the length. The device finishes the checksum (MUST-2).
    pub fn pseudo(&self, key: Key) -> u16 {
        checksum::pseudo_header(self.ip.to_be_bytes(), key.remote().ip().octets(), TCP, 0)
    }
}

/// What differs from segment to segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
}

/// Fills in the headers of a segment in front of `payload` bytes and says how to send it.
#[inline]
fn fill(buffer: &mut Buffer, pseudo: u16, header: Header, options: usize, payload: u16) -> TxMeta {
    let tcp = payload.wrapping_add(20 + options as u16);
    if let Some(bytes) = buffer.first_chunk_mut::<HEADERS>() {
        // The data offset counts words of 32 bits, of which the fixed header has five (RFC 9293, 3.1).
        let offset = 5 + (options as u32 & 0x3C) / 4;
        let sum = u32::from(pseudo) + u32::from(tcp);
        let sum = ((sum & 0xFFFF) as u16).wrapping_add((sum >> 16) as u16);
        let words = [
            header.seq.0,
            header.ack.0,
            offset << 28 | u32::from(header.flags) << 16 | u32::from(header.window),
            u32::from(sum) << 16,
        ];
        [bytes[16], bytes[17]] = tcp.wrapping_add(20).to_be_bytes();
        if let Some(place) = bytes.last_chunk_mut::<16>() {
            let (places, _) = place.as_chunks_mut::<4>();
            places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_be_bytes());
        }
    }
    TxMeta { len: tcp.wrapping_add(34), checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, vlan: None }
}

impl Session {
    /// The window to tell in the next segment; moves the edge that was promised when that is worth it.
    #[inline]
    fn window<T>(&mut self, w: &Work<'_, T>) -> u16 {
        // Receiver's silly window avoidance (RFC 9293, 3.8.6.2.2: MUST-39). The edge never moves back (SHLD-14).
        let worth = u32::from(self.mss).min(self.capacity / 2);
        let mut told = self.rcv_edge.since(self.rcv_nxt);
        if self.capacity.saturating_sub(self.readable) >= told.wrapping_add(worth) {
            let window = self.window_now(w.lane);
            if window >= told.wrapping_add(worth) {
                told = window;
                self.rcv_edge = self.rcv_nxt + window;
            }
        }
        (told >> self.rcv_shift).min(0xFFFF) as u16
    }

    /// What our clock for timestamps says at a time: milliseconds, from an offset of the connection's own (RFC 7323, 5.4 and 7.1).
    pub(super) fn timestamp(&self, at: Nanos) -> u32 {
        ((at / 1_000_000) as u32).wrapping_add(self.cold.ts_offset)
    }

    /// The headers that all segments of the session share, at the front of a fresh buffer.
    #[inline]
    pub fn prepare(&self, buffer: &mut Buffer) {
        if let Some(bytes) = buffer.first_chunk_mut::<PREPARED>() {
            *bytes = self.headers;
        }
    }

    /// Fills in a data segment.
    #[inline(always)]
    fn fill_data<T>(
        &mut self,
        w: &Work<'_, T>,
        buffer: &mut Buffer,
        (seq, ack): (Seq, Seq),
        flags: u8,
        payload: u16,
    ) -> TxMeta {
        if self.flags.contains(Flags::TIMESTAMPS) {
            self.fill_timestamps(w, buffer);
        }
        let header = Header { seq, ack, flags: flags | flag::ACK, window: self.window(w) };
        fill(buffer, self.pseudo, header, usize::from(self.header_len).wrapping_sub(HEADERS), payload)
    }

    #[cold]
    fn fill_timestamps<T>(&self, w: &Work<'_, T>, buffer: &mut Buffer) {
        let timestamps = Some((self.timestamp(w.now), self.cold.ts_recent));
        let bytes = Options { timestamps, ..Options::default() }.write();
        if let Some(place) = buffer.get_mut(HEADERS..HEADERS + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }

    /// What may be acknowledged: what is lent to its reader just now and not read might still find no place to be kept in.
    #[inline]
    fn acknowledgement(&self) -> Seq {
        if self.kept_first.is_none() { self.rcv_nxt - self.readable } else { self.rcv_nxt }
    }

    /// The peer was told `ack` by a segment that left. Data brings no blocks: where there are some to tell, an acknowledgement follows.
    #[inline]
    fn has_told(&mut self, ack: Seq) {
        self.rcv_told = ack;
        if !self.flags.contains(Flags::TROUBLE) || self.cold.out_of_order == 0 {
            self.flags -= Flags::ACK_DUE | Flags::ACK_NOW;
            self.cold.ack_due = NEVER;
        }
    }

    /// Sends `payload` bytes of data that stand in `buffer` behind the headers. Nothing has changed when it fails, and the buffer comes back.
    #[inline]
    pub fn send<T: TxQueue>(
        &mut self,
        w: &mut Work<'_, T>,
        buffer: Buffer,
        payload: u16,
    ) -> Result<(), (TcpError, Buffer)> {
        if let Err(error) = self.may_send(w, payload) {
            return Err((error, buffer));
        }
        // Every send is a message of its own, sent at once (MUST-60), so the peer's user is to see it at once (MUST-61).
        self.transmit(w, buffer, flag::PSH, payload, Marks::empty())
    }

    /// Whether `payload` bytes could be sent now.
    #[inline]
    pub fn may_send<T>(&mut self, w: &mut Work<'_, T>, payload: u16) -> Result<(), TcpError> {
        if !self.state.may_send() || self.flags.intersects(Flags::FIN_WANTED | Flags::DELEGATED) {
            return Err(self.cannot_send());
        }
        // No payload at all wraps around to more than there ever is.
        if u32::from(payload).wrapping_sub(1) >= self.room().min(self.mss.into()) {
            return Err(self.no_room(w, payload));
        }
        Ok(())
    }

    #[cold]
    fn cannot_send(&self) -> TcpError {
        if self.flags.contains(Flags::FIN_WANTED) {
            // The FIN waits for room; what it leads to has been decided.
            return TcpError::NotOpen(self.state.after(Cause::Close).unwrap_or(self.state));
        }
        if self.state.may_send() { TcpError::Delegated } else { TcpError::NotOpen(self.state) }
    }

    #[cold]
    fn no_room<T>(&mut self, w: &mut Work<'_, T>, payload: u16) -> TcpError {
        if payload == 0 || payload > self.mss {
            return TcpError::BadLength { most: self.mss };
        }
        self.block(w);
        TcpError::NoRoom { room: self.room() as usize }
    }

    #[cold]
    fn starve<T>(&mut self, w: &mut Work<'_, T>) -> TcpError {
        self.cold.is_starved = true;
        self.block(w);
        TcpError::TooManySegments
    }

    /// The user waits. What has to be watched for him is found out when the poll ends, and not again for each time that he asks.
    fn block<T>(&mut self, w: &mut Work<'_, T>) {
        if !self.flags.contains(Flags::BLOCKED) {
            self.flags |= Flags::BLOCKED;
            self.attend(w.lane);
        }
    }

    /// Copies a message into a segment of its own and sends it.
    #[inline]
    pub fn send_message<T: TxQueue>(&mut self, w: &mut Work<'_, T>, message: &[u8]) -> Result<(), TcpError> {
        let len = message.len().min(0xFFFF) as u16;
        self.may_send(w, len)?;
        let mut buffer = w.tx.reserve().map_err(TcpError::Busy)?;
        self.prepare(&mut buffer);
        let start = usize::from(self.header_len);
        if let Some(room) = buffer.get_mut(start..start.wrapping_add(message.len())) {
            room.copy_from_slice(message);
        }
        self.transmit(w, buffer, flag::PSH, len, Marks::empty()).map_err(|(error, _)| error)
    }

    /// Sends a segment that takes sequence space, and keeps it.
    #[inline(always)]
    fn transmit<T: TxQueue>(
        &mut self,
        w: &mut Work<'_, T>,
        mut buffer: Buffer,
        flags: u8,
        payload: u16,
        marks: Marks,
    ) -> Result<(), (TcpError, Buffer)> {
        if w.lane.sent.available() == 0 {
            return Err((self.starve(w), buffer));
        }
        let (seq, ack) = (self.snd_nxt, self.acknowledgement());
        let meta = self.fill_data(w, &mut buffer, (seq, ack), flags, payload);
        match w.tx.commit_retained(buffer, meta) {
            Ok(retained) => self.keep_sent(w, payload, marks, SentFrame::Retained(retained)),
            Err((error, buffer)) => return Err((TcpError::Busy(error), buffer)),
        }
        self.has_told(ack);
        w.lane.stats.segments_sent = w.lane.stats.segments_sent.wrapping_add(1);
        Ok(())
    }

    #[cold]
    fn transmit_fin<T: TxQueue>(&mut self, w: &mut Work<'_, T>, buffer: Buffer) -> Result<(), (TcpError, Buffer)> {
        self.transmit(w, buffer, flag::FIN, 0, Marks::FIN)
    }

    /// Enters what was sent, from SND.NXT on.
    #[inline(always)]
    fn keep_sent<T>(&mut self, w: &mut Work<'_, T>, payload: u16, marks: Marks, frame: SentFrame) {
        let (seq, sent_at) = (self.snd_nxt, w.now);
        let len = u32::from(payload) + u32::from(marks.contains(Marks::FIN));
        // There is a node: whoever calls has looked.
        let Some(link) = w.lane.sent.insert_with(|| Sent { seq, payload, marks, sent_at, frame }) else { return };
        if self.snd_una == self.snd_nxt {
            (self.cold.stalled_since, self.cold.is_forced) = (w.now, false);
        }
        if self.sent_first.is_none() {
            self.sent_first = link;
        } else {
            w.lane.sent.set_next(self.sent_last, link);
        }
        self.sent_last = link;
        self.snd_nxt = self.snd_nxt + len;
        self.in_flight = self.in_flight.wrapping_add(len);
        self.cold.bytes_sent = self.cold.bytes_sent.wrapping_add(payload.into());
        self.fall_behind(w.lane);
    }

    /// Fills in a segment without data: `options` follow the headers.
    fn send_bare<T: TxQueue>(&mut self, w: &mut Work<'_, T>, header: Header, options: &Options) -> bool {
        let Ok(mut buffer) = w.tx.reserve() else {
            w.lane.stats.tx_busy += 1;
            return false;
        };
        self.prepare(&mut buffer);
        let options = options.write();
        if let Some(place) = buffer.get_mut(HEADERS..HEADERS + options.len()) {
            place.copy_from_slice(&options);
        }
        let meta = fill(&mut buffer, self.pseudo, header, options.len(), 0);
        if w.tx.commit(buffer, meta).is_err() {
            w.lane.stats.tx_busy += 1;
            return false;
        }
        w.lane.stats.segments_sent += 1;
        true
    }

    /// Acknowledges what has arrived, with blocks where something is missing. `seq` is SND.NXT, or one before SND.UNA for a probe.
    pub fn send_ack_at<T: TxQueue>(&mut self, w: &mut Work<'_, T>, seq: Seq) -> bool {
        let mut options = Options::default();
        if self.flags.contains(Flags::TIMESTAMPS) {
            options.timestamps = Some((self.timestamp(w.now), self.cold.ts_recent));
        }
        if self.flags.contains(Flags::SACK) && (self.cold.out_of_order > 0 || self.cold.twice.is_some()) {
            options.sack = self.blocks(w.lane);
        }
        let header = Header { seq, ack: self.acknowledgement(), flags: flag::ACK, window: self.window(w) };
        let sent = self.send_bare(w, header, &options);
        if sent {
            self.rcv_told = self.rcv_nxt;
            self.flags -= Flags::ACK_DUE | Flags::ACK_NOW;
            (self.cold.ack_due, self.cold.twice) = (NEVER, None);
        }
        sent
    }

    /// As [`Session::send_ack_at`], with the next sequence number; where the peer has shrunk its window below that, with one that it will accept
    /// (MUST-34; a FIN may stand beyond the window).
    pub fn send_ack<T: TxQueue>(&mut self, w: &mut Work<'_, T>) -> bool {
        let edge = self.snd_una + self.snd_wnd;
        let is_inside = !self.snd_nxt.after(edge + 1) || !self.state.is_synchronized();
        self.send_ack_at(w, if is_inside { self.snd_nxt } else { edge })
    }

    /// Sends our SYN, or SYN and ACK, with what we offer, always with the segment size, and that in no other segment (MUST-14, MUST-65, SHLD-5,
    /// MAY-3); again, and by the same rules as data, when it was sent before (MUST-22, MUST-23).
    pub fn send_syn<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        let answers = self.state == TcpState::SynReceived;
        let offered = &self.cold.options;
        let options = Options {
            mss: Some(self.mss_offered()),
            // An answer only takes up what was offered (RFC 7323, 1.3 and 2.2; RFC 2018, 2).
            sack_permitted: !answers || self.flags.contains(Flags::SACK),
            timestamps: if answers { self.flags.contains(Flags::TIMESTAMPS) } else { offered.timestamps }
                .then(|| (self.timestamp(w.now), self.cold.ts_recent)),
            window_scale: (!answers || self.snd_shift != super::input::NO_SHIFT).then_some(offered.window_shift()),
            ..Options::default()
        };
        // The window of a SYN is never scaled (RFC 7323, 2.2).
        let window = self.window_now(w.lane).min(0xFFFF);
        let (flags, ack) = if answers { (flag::SYN | flag::ACK, self.rcv_nxt) } else { (flag::SYN, Seq(0)) };
        let header = Header { seq: self.cold.iss, ack, flags, window: window as u16 };
        self.rcv_edge = self.rcv_nxt + window;
        self.rcv_told = self.rcv_nxt;
        self.snd_nxt = self.cold.iss + 1;
        if self.flags.contains(Flags::UNRESOLVED) || self.send_bare(w, header, &options) {
            self.wait_for_timeout(w);
        } else {
            self.wait_for_queue(w);
        }
        self.arm(w.lane, self.cold.rtx_due);
    }

    /// What one frame of the port holds without headers, at most (RFC 9293, 3.7.1: MUST-67).
    fn mss_offered(&self) -> u16 {
        self.cold.options.mss.clamp(64, MAX_MSS)
    }

    /// The user's CLOSE (RFC 9293, 3.10.4): a FIN follows what was sent.
    pub fn close<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        match self.state {
            TcpState::SynSent => {
                self.step(w, Cause::Close);
            }
            // In SYN-RECEIVED the FIN waits until the connection is there.
            TcpState::SynReceived | TcpState::Established | TcpState::CloseWait => {
                self.flags |= Flags::FIN_WANTED;
                self.try_fin(w);
            }
            _ => {}
        }
    }

    /// Sends the FIN that is wanted, if it can be sent now; else what makes room will try again.
    pub fn try_fin<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        if !self.flags.contains(Flags::FIN_WANTED) || self.flags.contains(Flags::DELEGATED) || !self.state.may_send() {
            return;
        }
        if w.lane.sent.available() == 0 {
            // Until a segment of another session's is acknowledged, which may take long.
            self.cold.is_starved = true;
            self.flags |= Flags::BLOCKED;
            if self.cold.waiting == Waiting::Nothing {
                self.wait_for_queue(w);
                self.arm(w.lane, self.cold.rtx_due);
            }
            return;
        }
        let Ok(mut buffer) = w.tx.reserve() else {
            w.lane.stats.tx_busy += 1;
            return self.attend(w.lane);
        };
        self.prepare(&mut buffer);
        // A FIN goes out even when the peer's window is closed: it is its own probe.
        if self.transmit_fin(w, buffer).is_err() {
            w.lane.stats.tx_busy += 1;
            return self.attend(w.lane);
        }
        self.flags -= Flags::FIN_WANTED;
        self.step(w, Cause::Close);
    }

    /// Resets the connection towards the peer: <SEQ=SND.NXT><CTL=RST,ACK> (RFC 9293, 3.10.5).
    pub fn send_reset<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        let header = Header { seq: self.snd_nxt, ack: self.rcv_nxt, flags: flag::RST | flag::ACK, window: 0 };
        self.send_bare(w, header, &Options::default());
    }

    /// Answers an acknowledgement that makes no sense before the connection is there: <SEQ=SEG.ACK><CTL=RST> (RFC 9293, 3.5.2).
    pub fn send_reset_at<T: TxQueue>(&mut self, w: &mut Work<'_, T>, seq: Seq) {
        let header = Header { seq, ack: Seq(0), flags: flag::RST, window: 0 };
        self.send_bare(w, header, &Options::default());
    }

    /// Sends a kept segment once more, from the buffer it stands in. The headers are brought up to date, for peers drop what acknowledges too little
    /// (RFC 5961, 5.2) or is too old (RFC 7323, 5.3); unless the device has not even sent it yet.
    pub fn resend<T: TxQueue>(&mut self, w: &mut Work<'_, T>, link: Link) -> bool {
        let Some(sent) = w.lane.sent.get_mut(link) else { return false };
        let (seq, payload, marks) = (sent.seq, sent.payload, sent.marks);
        let buffer = match std::mem::replace(&mut sent.frame, SentFrame::Moving) {
            // Queues take back what the device has completed when they need it, which may be never.
            SentFrame::Retained(retained) => retained.try_into_buffer().or_else(|retained| {
                w.tx.reclaim();
                retained.try_into_buffer()
            }),
            SentFrame::Unsent(buffer) => Ok(buffer),
            SentFrame::Moving => return false,
        };
        let flags = if marks.contains(Marks::FIN) { flag::FIN } else { flag::PSH };
        let (frame, left) = match buffer {
            Ok(mut buffer) => {
                let ack = self.acknowledgement();
                let meta = self.fill_data(w, &mut buffer, (seq, ack), flags, payload);
                match w.tx.commit_retained(buffer, meta) {
                    Ok(retained) => {
                        self.has_told(ack);
                        (SentFrame::Retained(retained), true)
                    }
                    Err((_, buffer)) => (SentFrame::Unsent(buffer), false),
                }
            }
            Err(retained) => {
                let len = u16::from(self.header_len).wrapping_add(payload);
                let checksum = ChecksumOffload::Ipv4Tcp;
                let meta = TxMeta { len, checksum, l2_len: 14, l3_len: 20, vlan: None };
                let left = w.tx.recommit(&retained, meta).is_ok();
                (SentFrame::Retained(retained), left)
            }
        };
        let Some(sent) = w.lane.sent.get_mut(link) else { return false };
        sent.frame = frame;
        if !left {
            w.lane.stats.tx_busy += 1;
            return false;
        }
        if !sent.is_in_flight() && !sent.marks.contains(Marks::SACKED) {
            self.in_flight += sent.len();
        }
        sent.marks = (sent.marks | Marks::RESENT) - Marks::LOST;
        sent.sent_at = w.now;
        w.lane.stats.segments_sent += 1;
        true
    }

    /// Does all that a send of `payload` does, up to the queue, and forgets it.
    #[inline]
    pub fn rehearse<T: TxQueue>(&mut self, w: &mut Work<'_, T>, payload: &[u8]) -> Result<(), TcpError> {
        let len = payload.len().min(0xFFFF) as u16;
        self.may_send(w, len)?;
        let mut buffer = w.tx.reserve().map_err(TcpError::Busy)?;
        self.prepare(&mut buffer);
        let start = usize::from(self.header_len);
        if let Some(place) = buffer.get_mut(start..start + usize::from(len)) {
            place.copy_from_slice(payload);
        }
        let edge = self.rcv_edge;
        self.fill_data(w, &mut buffer, (self.snd_nxt, self.acknowledgement()), flag::PSH, len);
        self.rcv_edge = edge;
        Ok(())
    }

    /// The headers of the next segment, for somebody else to send `payload` bytes with; enters nothing yet.
    pub fn delegate<T: TxQueue>(&mut self, w: &mut Work<'_, T>, payload: u16) -> Result<(Buffer, u16), TcpError> {
        self.may_send(w, payload)?;
        if w.lane.sent.available() == 0 {
            return Err(self.starve(w));
        }
        let mut buffer = w.tx.reserve().map_err(TcpError::Busy)?;
        self.prepare(&mut buffer);
        self.fill_data(w, &mut buffer, (self.snd_nxt, self.acknowledgement()), flag::PSH, payload);
        self.flags |= Flags::DELEGATED;
        Ok((buffer, u16::from(self.header_len)))
    }

    /// Somebody else has sent what `buffer` holds, with this acknowledgement.
    pub fn delegated<T>(&mut self, w: &mut Work<'_, T>, buffer: Buffer, payload: u16, ack: Seq) {
        self.flags -= Flags::DELEGATED;
        self.keep_sent(w, payload, Marks::empty(), SentFrame::Unsent(buffer));
        if ack == self.rcv_nxt {
            self.has_told(ack);
        }
    }

    /// Asks whether the peer still stands, or whether its window is still closed: an old sequence number draws an acknowledgement
    /// (RFC 9293, 3.8.4 and 3.8.6.1). Says whether it was sent.
    pub fn ask<T: TxQueue>(&mut self, w: &mut Work<'_, T>) -> bool {
        let asked = self.send_ack_at(w, self.snd_una - 1);
        if asked {
            self.cold.log.note(w.now, TcpHappening::Asked);
        }
        asked
    }
}

/// Sends a segment that belongs to no session.
pub(super) fn send_stray<T: TxQueue>(w: &mut Work<'_, T>, addresses: Addresses, key: Key, header: Header) {
    let Ok(mut buffer) = w.tx.reserve() else {
        w.lane.stats.tx_busy += 1;
        return;
    };
    if let Some(bytes) = buffer.first_chunk_mut::<PREPARED>() {
        *bytes = addresses.headers(key);
    }
    let meta = fill(&mut buffer, addresses.pseudo(key), header, 0, 0);
    match w.tx.commit(buffer, meta) {
        Ok(()) => w.lane.stats.segments_sent += 1,
        Err(_) => w.lane.stats.tx_busy += 1,
    }
}
