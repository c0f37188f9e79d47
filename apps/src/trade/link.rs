//! The line to the exchange: orders and cancels out, answers in, over a connection that comes and goes.
#![forbid(unsafe_code)]

use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, Parked, TcpId, TcpState};
use zerocopy::IntoBytes;

use super::limits::Refusal;
use super::orders::Answer;
use super::packet::{CancelPacket, EnterPacket, MassCancelPacket};
use super::strategy::Intent;
use super::trader::{Probe, Stage};
use crate::fields::Alpha;
use crate::order::gateway::Credentials;
use crate::order::session::{Backoff, Phase, Session, SessionEvent};

/// As whom the trader logs in.
const CREDENTIALS: Credentials = Credentials { user: Alpha(*b"TRADER"), password: Alpha(*b"barewire  ") };

/// An order that waits, complete, for somebody to want it.
struct Ready {
    intent: Intent,
    number: u32,
    parked: Parked,
}

impl Ready {
    /// Whether it is this order.
    #[inline]
    fn is(&self, number: u32, intent: &Intent) -> bool {
        self.number == number && self.intent == *intent
    }
}

/// How an order left.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When it was committed to the ring (t4).
    pub at: Nanos,
    /// Whether it had been written and parked before it was wanted.
    pub is_prepared: bool,
}

/// The line to the exchange.
pub struct OrderLink {
    session: Session,
    /// The connection, from its opening on.
    connection: Option<TcpId>,
    packet: EnterPacket,
    /// Orders that were written before they are wanted, for the stock that moved last.
    ready: [Option<Ready>; 2],
    malformed: u64,
}

impl OrderLink {
    /// A line that takes an exchange silent for `patience` for dead.
    pub fn new(patience: Nanos) -> Self {
        Self {
            session: Session::new(CREDENTIALS, patience, Backoff::default()),
            connection: None,
            packet: EnterPacket::template(),
            ready: [None, None],
            malformed: 0,
        }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Packets and messages that make no sense.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The connection, where orders may leave by it.
    #[inline]
    fn open(&self) -> Result<TcpId, Refusal> {
        self.connection.filter(|_| self.session.is_ready()).ok_or(Refusal::NoSession)
    }

    /// Sends an order: the one that waits under this number, if it is this one; otherwise it is written now.
    #[inline]
    pub fn send<T: TxQueue, P: Probe>(
        &mut self,
        cx: &mut Context<T>,
        number: u32,
        intent: &Intent,
        symbol: Alpha<8>,
        clock: &Clock,
        probe: &mut P,
    ) -> Result<Sent, Refusal> {
        let connection = self.open()?;
        let ready = self.ready.iter_mut().find_map(|ready| ready.take_if(|ready| ready.is(number, intent)));
        let is_prepared = ready.is_some();
        if let Some(ready) = ready {
            probe.mark(Stage::Encoded);
            cx.tcp_release_parked(ready.parked).map_err(|_| Refusal::BackPressure)?;
        } else {
            self.packet.fill(number, intent, symbol);
            probe.mark(Stage::Encoded);
            cx.tcp_send_message(connection, self.packet.as_bytes()).map_err(|_| Refusal::BackPressure)?;
        }
        let at = clock.now();
        probe.mark(Stage::Committed);
        cx.flush();
        self.session.sent(at);
        Ok(Sent { at, is_prepared })
    }

    /// Writes the orders in `wanted` and parks them on the session, for one of them to leave as `number`.
    pub fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32, wanted: [Intent; 2], symbol: Alpha<8>) {
        let Ok(connection) = self.open() else { return };
        let mut waiting = self.ready.iter().zip(&wanted);
        if waiting.all(|(ready, intent)| ready.as_ref().is_some_and(|ready| ready.is(number, intent))) {
            return;
        }
        self.forget();
        for (place, intent) in self.ready.iter_mut().zip(wanted) {
            self.packet.fill(number, &intent, symbol);
            let bytes = self.packet.as_bytes();
            let Ok(mut message) = cx.tcp_reserve(connection, bytes.len() as u16) else { return };
            message.payload_mut().copy_from_slice(bytes);
            let Ok(parked) = cx.tcp_park(message, bytes.len() as u16) else { return };
            *place = Some(Ready { intent, number, parked });
        }
    }

    /// Gives back the orders that wait.
    pub fn forget(&mut self) {
        self.ready = [None, None];
    }

    /// Asks the exchange to end an order.
    ///
    /// # Errors
    /// When the session cannot carry the request.
    pub fn cancel<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32) -> Result<(), Refusal> {
        let connection = self.open()?;
        cx.tcp_send_message(connection, CancelPacket::new(number).as_bytes()).map_err(|_| Refusal::BackPressure)?;
        self.session.sent(cx.now());
        Ok(())
    }

    /// Asks the exchange to end all orders, under `number`. Without a session there is nothing to end: the exchange cancels what a lost
    /// connection leaves.
    pub fn cancel_all<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32) {
        let Ok(connection) = self.open() else { return };
        if cx.tcp_send_message(connection, MassCancelPacket::new(number).as_bytes()).is_err() {
            log::warn!(
                "order session: no room for the cancel of all orders; the connection is given up, which cancels them"
            );
            self.hang_up(cx, connection);
        }
    }

    /// Whether a connection is to be opened; [`OrderLink::connecting`] or [`OrderLink::disconnected`] follows.
    pub fn connect_due(&mut self, now: Nanos) -> bool {
        self.session.connect_due(now)
    }

    /// A connection is being opened.
    pub fn connecting(&mut self, connection: TcpId) {
        self.connection = Some(connection);
    }

    /// The connection is gone, or could not be opened.
    pub fn disconnected(&mut self, now: Nanos) {
        self.connection = None;
        self.forget();
        self.session.disconnected(now);
        log::warn!("order session: no connection; {:?}", self.session.phase());
    }

    /// Something has happened on a connection; `take` learns what the exchange said. [`OrderLink::pump`] is to follow.
    pub fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, mut take: impl FnMut(Answer)) {
        if self.connection != Some(id) {
            return;
        }
        let (now, state) = (cx.now(), cx.tcp_state(id));
        if self.session.phase() == Phase::Connecting && state == TcpState::Established {
            self.session.connected(now);
        }
        let mut sound = true;
        let read = cx.tcp_receive(id, |bytes| {
            sound = sound && self.answers(now, bytes, &mut take);
            bytes.len()
        });
        let is_gone = matches!(state, TcpState::Closed | TcpState::CloseWait);
        if !sound || is_gone || read.is_err() && self.session.phase() != Phase::Connecting {
            self.hang_up(cx, id);
        }
    }

    /// Takes what is lent of a connection; `take` learns what the exchange said. [`OrderLink::pump`] is to follow.
    #[inline]
    pub fn on_data<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, data: &[u8], mut take: impl FnMut(Answer)) {
        if self.connection != Some(id) {
            return;
        }
        let sound = self.answers(cx.now(), data, &mut take);
        cx.tcp_consume(id, data.len());
        if !sound {
            self.hang_up(cx, id);
        }
    }

    #[cold]
    fn hang_up<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        // Parked orders go back before their connection does.
        self.forget();
        cx.tcp_abort(id);
        cx.tcp_release(id);
        self.disconnected(cx.now());
    }

    /// The exchange's answers; `false` when they make no sense any more.
    fn answers(&mut self, now: Nanos, bytes: &[u8], take: &mut impl FnMut(Answer)) -> bool {
        let Self { session, malformed, .. } = self;
        let received = session.receive(now, bytes, |event| match event {
            SessionEvent::Message(message) => {
                if let Some(answer) = Answer::of(&message) {
                    take(answer);
                }
            }
            SessionEvent::Settled { next_user_ref_num } => take(Answer::Settled { next: next_user_ref_num }),
            SessionEvent::Malformed => *malformed = malformed.saturating_add(1),
        });
        *malformed = malformed.saturating_add(u64::from(received.is_err()));
        received.is_ok()
    }

    /// When [`OrderLink::pump`] has something to do, or a connection is to be opened.
    #[inline]
    pub fn deadline(&self) -> Option<Nanos> {
        self.session.deadline()
    }

    /// Sends what the session has to send.
    pub fn pump<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        let now = cx.now();
        let Some(connection) = self.connection else { return };
        while let Some(packet) = self.session.poll(now) {
            if cx.tcp_send_message(connection, &packet).is_err() {
                // What the session cannot say now it could not be sure of having said later.
                log::warn!("order session: no room to send; the connection is given up");
                return self.hang_up(cx, connection);
            }
        }
        if self.session.is_dead() {
            self.hang_up(cx, connection);
        }
    }

    /// Logs out and closes the connection; which one it was.
    pub fn log_out<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Option<TcpId> {
        let logout = self.session.logout();
        let connection = self.connection.take()?;
        self.forget();
        // The close ends the session all the same where there is no room for the logout.
        let _ = cx.tcp_send_message(connection, &logout);
        cx.tcp_close(connection);
        Some(connection)
    }
}
