//! Order entry: limits, encoding and sending at the moment of release; the session behind it, and its answers.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, Parked, TcpId, TcpState};
use zerocopy::IntoBytes;

use super::kill::KillSwitch;
use super::limits::{Limits, Refusal, Situation, TokenBucket};
use super::orders::Orders;
use super::packet::{CancelPacket, EnterPacket, MassCancelPacket};
use super::strategy::Intent;
use super::trader::{Probe, Stage};
use crate::fields::Alpha;
use crate::order::gateway::Credentials;
use crate::order::session::{Backoff, Phase, Session, SessionEvent};
use crate::order::soupbin;

/// As whom the trader logs in.
const CREDENTIALS: Credentials = Credentials { user: Alpha(*b"TRADER"), password: Alpha(*b"barewire  ") };

/// Refusals that wait to be logged; more of them at once are only counted.
const LOGGED: usize = 32;

/// An order that waits, complete, for somebody to want it.
struct Ready {
    intent: Intent,
    number: u32,
    parked: Parked,
}

/// The trader's desk for orders.
pub(super) struct Entry {
    pub(super) orders: Orders,
    pub(super) limits: Limits,
    bucket: TokenBucket,
    kill: KillSwitch,
    /// Whether what follows a press of the kill switch is done.
    is_kill_served: bool,
    session: Session,
    /// The connection, from its opening on.
    link: Option<TcpId>,
    packet: EnterPacket,
    /// Orders that were written before they are wanted, for the stock that moved last.
    ready: ArrayVec<Ready, 2>,
    refused: ArrayVec<(Intent, Refusal), LOGGED>,
    /// Packets and messages that make no sense.
    pub(super) malformed: u64,
}

impl Entry {
    pub(super) fn new() -> Self {
        let limits = Limits::default();
        Self {
            orders: Orders::default(),
            limits,
            bucket: TokenBucket::new(&limits),
            kill: KillSwitch::default(),
            is_kill_served: false,
            session: Session::new(CREDENTIALS, soupbin::TIMEOUT, Backoff::default()),
            link: None,
            packet: EnterPacket::template(),
            ready: ArrayVec::new(),
            refused: ArrayVec::new(),
            malformed: 0,
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        (self.limits, self.bucket) = (limits, TokenBucket::new(&limits));
    }

    pub(super) fn set_kill_switch(&mut self, kill: KillSwitch) {
        self.kill = kill;
    }

    pub(super) fn set_patience(&mut self, patience: Nanos) {
        self.session = Session::new(CREDENTIALS, patience, Backoff::default());
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// An order is wanted: it leaves, or is refused; both are counted. Returns its number.
    #[inline]
    pub(super) fn order<T: TxQueue, P: Probe>(
        &mut self,
        cx: &mut Context<T>,
        intent: &Intent,
        symbol: Alpha<8>,
        at: &Situation<'_>,
        clock: &Clock,
        probe: &mut P,
    ) -> Result<(u32, Nanos), Refusal> {
        self.orders.tally.decided = self.orders.tally.decided.wrapping_add(1);
        let released = self.release(cx, intent, symbol, at, clock, probe);
        if let Err(reason) = released {
            self.orders.tally.refused.count(reason);
            // Without a place it is only counted.
            let _ = self.refused.try_push((*intent, reason));
        }
        released
    }

    /// Limits, encode, send. Whatever stands in the way is a refusal, and nothing has left. Returns the order's number and t4.
    #[inline]
    fn release<T: TxQueue, P: Probe>(
        &mut self,
        cx: &mut Context<T>,
        intent: &Intent,
        symbol: Alpha<8>,
        at: &Situation<'_>,
        clock: &Clock,
        probe: &mut P,
    ) -> Result<(u32, Nanos), Refusal> {
        if self.kill.is_pressed() {
            return Err(Refusal::Killed);
        }
        self.limits.check(intent, at)?;
        if !self.bucket.has_token(at.now) {
            return Err(Refusal::Rate);
        }
        if self.orders.meets_own(intent) {
            return Err(Refusal::SelfMatch);
        }
        let link = self.link.filter(|_| self.session.is_ready()).ok_or(Refusal::NoSession)?;
        let number = self.orders.next_number().ok_or(Refusal::OpenOrders)?;
        let ready = self.ready.iter().position(|ready| ready.number == number && ready.intent == *intent);
        if let Some(ready) = ready.and_then(|at| self.ready.swap_pop(at)) {
            probe.mark(Stage::Encoded);
            cx.tcp_release_parked(ready.parked).map_err(|_| Refusal::BackPressure)?;
            self.orders.tally.prepared = self.orders.tally.prepared.wrapping_add(1);
        } else {
            self.packet.fill(number, intent, symbol);
            probe.mark(Stage::Encoded);
            cx.tcp_send_message(link, self.packet.as_bytes()).map_err(|_| Refusal::BackPressure)?;
        }
        let t4 = clock.now();
        probe.mark(Stage::Committed);
        cx.flush();
        self.session.sent(t4);
        self.bucket.take(at.now);
        self.orders.sent(number, intent);
        Ok((number, t4))
    }

    /// Writes the orders in `wanted` and parks them on the session.
    #[cold]
    pub(super) fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>, wanted: [Intent; 2], symbol: Alpha<8>) {
        let Some(link) = self.link.filter(|_| self.session.is_ready() && !self.kill.is_pressed()) else { return };
        let Some(number) = self.orders.next_number() else { return };
        if self.ready.len() == wanted.len()
            && self.ready.iter().zip(&wanted).all(|(ready, intent)| ready.number == number && ready.intent == *intent)
        {
            return;
        }
        self.ready.clear();
        for intent in wanted {
            self.packet.fill(number, &intent, symbol);
            let bytes = self.packet.as_bytes();
            let Ok(mut message) = cx.tcp_reserve(link, bytes.len() as u16) else { return };
            message.payload_mut().copy_from_slice(bytes);
            let Ok(parked) = cx.tcp_park(message, bytes.len() as u16) else { return };
            self.ready.push(Ready { intent, number, parked });
        }
    }

    /// Asks the exchange to end an order of ours. It stays open until the exchange says so.
    pub(super) fn cancel<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32) -> Result<(), Refusal> {
        let link = self.link.filter(|_| self.session.is_ready()).ok_or(Refusal::NoSession)?;
        cx.tcp_send_message(link, CancelPacket::new(number).as_bytes()).map_err(|_| Refusal::BackPressure)?;
        self.session.sent(cx.now());
        Ok(())
    }

    /// Whether a connection is to be opened; [`Entry::connecting`] or [`Entry::disconnected`] follows.
    pub(super) fn connect_due(&mut self, now: Nanos) -> bool {
        self.session.connect_due(now)
    }

    pub(super) fn connecting(&mut self, link: TcpId) {
        self.link = Some(link);
    }

    /// The connection is gone, or could not be opened.
    pub(super) fn disconnected(&mut self, now: Nanos) {
        (self.link, self.ready) = (None, ArrayVec::new());
        self.session.disconnected(now);
        log::warn!("order session: no connection; {:?}", self.session.phase());
    }

    /// Something has happened on the connection.
    pub(super) fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        if self.link != Some(id) {
            return;
        }
        let (now, state) = (cx.now(), cx.tcp_state(id));
        if self.session.phase() == Phase::Connecting && state == TcpState::Established {
            self.session.connected(now);
        }
        let mut sound = true;
        let read = cx.tcp_receive(id, |bytes| {
            sound = sound && self.answers(now, bytes);
            bytes.len()
        });
        let is_gone = matches!(state, TcpState::Closed | TcpState::CloseWait);
        if !sound || is_gone || read.is_err() && self.session.phase() != Phase::Connecting {
            return self.hang_up(cx, id);
        }
        self.pump(cx);
    }

    /// Takes what is lent of the connection.
    #[inline]
    pub(super) fn on_data<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, data: &[u8]) {
        if self.link != Some(id) {
            return;
        }
        let sound = self.answers(cx.now(), data);
        cx.tcp_consume(id, data.len());
        if !sound {
            self.hang_up(cx, id);
        }
        self.pump(cx);
    }

    #[cold]
    fn hang_up<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        // Parked orders go back before their connection does.
        self.ready.clear();
        cx.tcp_abort(id);
        cx.tcp_release(id);
        self.disconnected(cx.now());
    }

    /// The exchange's answers; `false` when they make no sense any more.
    fn answers(&mut self, now: Nanos, bytes: &[u8]) -> bool {
        let Self { session, orders, malformed, .. } = self;
        let received = session.receive(now, bytes, |event| match event {
            SessionEvent::Message(message) => orders.answered(&message),
            SessionEvent::Settled { next_user_ref_num } => {
                let before = orders.tally.lost;
                orders.settle(next_user_ref_num);
                let lost = orders.tally.lost.saturating_sub(before);
                log::info!("order session: settled, {lost} orders lost, the next number is {next_user_ref_num}");
            }
            SessionEvent::Malformed => *malformed = malformed.saturating_add(1),
        });
        *malformed = malformed.saturating_add(u64::from(received.is_err()));
        received.is_ok()
    }

    /// Sends what the session has to send, and what follows a press of the kill switch; logs refusals.
    pub(super) fn pump<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        let now = cx.now();
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.serve_kill(cx);
        let Some(link) = self.link else { return };
        while let Some(packet) = self.session.poll(now) {
            if cx.tcp_send_message(link, &packet).is_err() {
                // What the session cannot say now it could not be sure of having said later.
                log::warn!("order session: no room to send; the connection is given up");
                return self.hang_up(cx, link);
            }
        }
        if self.session.is_dead() {
            self.hang_up(cx, link);
        }
    }

    /// After a press: the prepared orders go, and the exchange is told to cancel what is open.
    fn serve_kill<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if self.is_kill_served == self.kill.is_pressed() {
            return;
        }
        self.is_kill_served = !self.is_kill_served;
        self.ready.clear();
        if !self.is_kill_served {
            return log::warn!("kill switch reset: orders may leave again");
        }
        log::warn!("kill switch pressed: no order leaves any more; {} are open", self.orders.open_count());
        // Without a session there is nothing to cancel: the exchange cancels what a lost connection leaves.
        let Some(link) = self.link.filter(|_| self.session.is_ready() && self.orders.open_count() > 0) else { return };
        let Some(number) = self.orders.take_number() else { return };
        if cx.tcp_send_message(link, MassCancelPacket::new(number).as_bytes()).is_err() {
            log::warn!(
                "order session: no room for the cancel of all orders; the connection is given up, which cancels them"
            );
            self.hang_up(cx, link);
        }
    }

    /// Logs what was refused since the last time; for when there is nothing else to do.
    #[cold]
    pub(super) fn log_refusals(&mut self) {
        for (intent, reason) in self.refused.drain(..) {
            log::info!("order refused: {reason}: {intent:?}");
        }
    }

    /// When [`Entry::pump`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if self.is_kill_served != self.kill.is_pressed() {
            return Some(0);
        }
        self.session.deadline()
    }

    /// Logs out and closes the connection.
    pub(super) fn log_out<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        let logout = self.session.logout();
        if let Some(link) = self.link.take() {
            self.ready.clear();
            // The close ends the session all the same where there is no room for the logout.
            let _ = cx.tcp_send_message(link, &logout);
            cx.tcp_close(link);
        }
    }
}
