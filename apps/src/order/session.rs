//! The client's order session: it comes back after every cut, hears what it has missed, and settles what it does not know before
//! anything new is sent.
//!
//! It moves no bytes itself. The owner opens connections when [`Session::connect_due`] says so, hands in what arrives, and sends what
//! [`Session::poll`] gives.
//!
//! **Settling.** Orders are not repeated by anybody: one that was sent before a cut has arrived, or never will. Everything that the exchange has said
//! is heard again by sequence number, but nothing tells where that ends. So the session asks for the next order number that the exchange would take
//! (OUCH 5.0, section 2.8). The answer is a numbered message like any other and comes behind all that was said before. An order with that number or a
//! higher one has never arrived, and cannot any more, for the connection that it was sent on is dead; every lower one has had its answer.
//!
//! A question may be cut off as well, or its answer. Then an answer to the earlier question may come first, and what it says may be out of date. The
//! session counts the answers that it has not seen: with `n` of them missing, only answer `n + 1` of this connection is certainly one to a question
//! that was asked on it.
//!
//! **Beginning.** A client that was started anew does not know how many such answers an earlier life of it has left in what will be heard again. So
//! the first login asks for new messages only (SoupBinTCP 4.1, section 2.3.1: sequence number zero), and is told where they begin. If anything was
//! said before, the connection is given up for one that hears everything, and answers to questions count from there.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use zerocopy::IntoBytes;

use super::gateway::Credentials;
use super::ouch::{AccountQueryRequest, Outbound};
use super::soupbin::{Assembler, Client, ClientEvent, Control, State, kind};
use crate::fields::Alpha;

/// How long to wait before a connection is tried again: doubled after every failure, and back to the first after a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Nanos,
    /// At most.
    pub most: Nanos,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: 1_000_000, most: 1_000_000_000 }
    }
}

/// How far the session is.
///
/// ```text
/// Down -> Connecting -> LoggingIn -> Settling -> Ready
///   ^--------+-------------+------------+---------'     the connection is gone
///                          '-> Over <---+---------'     the exchange refuses or ends the session
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection; the next try is due.
    Down {
        /// When.
        until: Nanos,
    },
    /// A connection is being opened.
    Connecting,
    /// The login is on its way.
    LoggingIn,
    /// What was missed is heard; what is unknown is asked for.
    Settling,
    /// Orders may be sent.
    Ready,
    /// Over for good.
    Over(Over),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// Nothing more will come.
    #[error("the exchange has ended the order session")]
    Ended,
    /// The login is refused.
    #[error("the exchange refuses the login, reason {:?}: check user, password and session", char::from(*.0))]
    Rejected(u8),
    /// The exchange cannot repeat everything that was missed.
    #[error(
        "the exchange goes on with message {offered} where {wanted} was asked for: what lies between is lost; ask its operator"
    )]
    Gap {
        /// Asked for.
        wanted: u64,
        /// Offered.
        offered: u64,
    },
    /// We have logged out.
    #[error("logged out")]
    LoggedOut,
}

/// What the owner learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent<'a> {
    /// A message.
    Message(Outbound<'a>),
    /// Everything missed is heard. Orders with this number and higher ones that have had no answer are lost.
    Settled {
        /// The next number that the exchange would take.
        next_user_ref_num: u32,
    },
    /// Something that is no message, or does not belong here.
    Malformed,
}

/// What a session counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Logins that were accepted.
    pub logins: u64,
    /// Connections that were lost.
    pub cuts: u64,
    /// Numbered messages.
    pub messages: u64,
    /// Numbered messages heard a second time, and left out.
    pub repeated: u64,
    /// Questions for the next order number.
    pub queries: u64,
}

/// The connection makes no sense any more: reset it, and tell [`Session::disconnected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("order session cannot be read on; the connection is reset")]
pub struct Broken;

/// The client's end of an order session, over any number of connections.
#[derive(Debug)]
pub struct Session {
    credentials: Credentials,
    patience: Nanos,
    backoff: Backoff,
    wait: Nanos,
    phase: Phase,
    client: Client,
    assembler: Assembler,
    /// The session's name; blank until the exchange has told it.
    name: Alpha<10>,
    /// The number of the next message that was not heard.
    next_sequence: u64,
    /// The number of the first message of this life; `None` until the exchange has told it.
    first_own: Option<u64>,
    /// The connection served to learn that number, and is to be given up.
    is_used_up: bool,
    /// Questions whose answer was not seen.
    unseen: u32,
    /// Answers that must still come on this connection before one is certainly of this connection.
    wanted: u32,
    /// The login that waits to be sent.
    login: Option<Control>,
    /// Questions that wait to be sent.
    questions: u32,
    stats: Stats,
}

impl Session {
    /// A session that is still to be connected. An exchange that is silent for `patience` is taken for dead.
    pub fn new(credentials: Credentials, patience: Nanos, backoff: Backoff) -> Self {
        Self {
            credentials,
            patience,
            backoff,
            wait: backoff.first,
            phase: Phase::Down { until: 0 },
            client: Client::default(),
            assembler: Assembler::default(),
            name: Alpha::new(""),
            next_sequence: 1,
            first_own: None,
            is_used_up: false,
            unseen: 0,
            wanted: 0,
            login: None,
            questions: 0,
            stats: Stats::default(),
        }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether orders may be sent.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// What it counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a connection is to be opened now; the session takes it that this is done.
    pub fn connect_due(&mut self, now: Nanos) -> bool {
        let due = matches!(self.phase, Phase::Down { until } if until <= now);
        if due {
            self.phase = Phase::Connecting;
        }
        due
    }

    /// The connection is open: the login is to be sent.
    pub fn connected(&mut self, now: Nanos) {
        let Credentials { user, password } = self.credentials;
        let (user, password, name) = (user.to_string(), password.to_string(), self.name.to_string());
        let wanted = self.first_own.map_or(0, |_| self.next_sequence);
        let (client, login) = Client::login(now, &user, &password, &name, wanted);
        self.client = client.with_patience(self.patience);
        self.assembler = Assembler::default();
        (self.login, self.questions) = (Some(login), 0);
        self.phase = Phase::LoggingIn;
    }

    /// The connection is gone, or was never opened.
    pub fn disconnected(&mut self, now: Nanos) {
        if matches!(self.phase, Phase::Down { .. } | Phase::Over(_)) {
            return;
        }
        (self.login, self.questions) = (None, 0);
        if std::mem::take(&mut self.is_used_up) {
            self.phase = Phase::Down { until: now };
            return;
        }
        self.stats.cuts += 1;
        self.phase = Phase::Down { until: now.saturating_add(self.wait) };
        self.wait = self.wait.saturating_mul(2).min(self.backoff.most);
    }

    /// Takes what has arrived.
    ///
    /// # Errors
    /// When the stream makes no sense any more.
    pub fn receive(&mut self, now: Nanos, bytes: &[u8], mut on: impl FnMut(SessionEvent<'_>)) -> Result<(), Broken> {
        let mut assembler = std::mem::take(&mut self.assembler);
        let fed = assembler.feed(bytes, |packet| match self.client.receive(now, packet) {
            ClientEvent::Accepted { session, next_sequence } => self.accepted(session, next_sequence),
            ClientEvent::Rejected(reason) => self.end(Over::Rejected(reason)),
            ClientEvent::Ended => self.end(Over::Ended),
            ClientEvent::Message(number, message) => self.message(number, message, &mut on),
            ClientEvent::Nothing => {}
            ClientEvent::Unexpected(_) => on(SessionEvent::Malformed),
        });
        self.assembler = assembler;
        fed.map_err(|_| Broken)
    }

    fn end(&mut self, over: Over) {
        (self.login, self.questions) = (None, 0);
        self.phase = Phase::Over(over);
    }

    fn accepted(&mut self, session: Alpha<10>, next_sequence: u64) {
        if self.first_own.is_none() {
            (self.name, self.first_own) = (session, Some(next_sequence));
            self.is_used_up = next_sequence > self.next_sequence;
            if self.is_used_up {
                return;
            }
        }
        if next_sequence > self.next_sequence {
            return self.end(Over::Gap { wanted: self.next_sequence, offered: next_sequence });
        }
        self.stats.logins += 1;
        self.name = session;
        self.wanted = self.unseen.saturating_add(1);
        self.phase = Phase::Settling;
        self.ask();
    }

    /// The next order number is to be asked for.
    fn ask(&mut self) {
        self.unseen = self.unseen.saturating_add(1);
        self.questions = self.questions.saturating_add(1);
        self.stats.queries += 1;
    }

    fn message(&mut self, number: u64, message: &[u8], on: &mut impl FnMut(SessionEvent<'_>)) {
        if !matches!(self.phase, Phase::Settling | Phase::Ready) {
            return;
        }
        if number < self.next_sequence {
            self.stats.repeated += 1;
            return;
        }
        self.stats.messages += 1;
        self.next_sequence = number.wrapping_add(1);
        match Outbound::parse(message) {
            // The answer to a question of an earlier life.
            Ok(Outbound::AccountQueryResponse(..)) if self.first_own.is_some_and(|first| number < first) => {}
            Ok(Outbound::AccountQueryResponse(answer, _)) => {
                self.unseen = self.unseen.saturating_sub(1);
                if self.phase == Phase::Settling {
                    self.wanted = self.wanted.saturating_sub(1);
                    if self.wanted > 0 {
                        return self.ask();
                    }
                    self.phase = Phase::Ready;
                    self.wait = self.backoff.first;
                    on(SessionEvent::Settled { next_user_ref_num: answer.next_user_ref_num.get() });
                }
            }
            Ok(message) => on(SessionEvent::Message(message)),
            Err(_) => on(SessionEvent::Malformed),
        }
    }

    /// Something that is to be sent on the connection, as long as there is: login, questions, heartbeats.
    pub fn poll(&mut self, now: Nanos) -> Option<Control> {
        if let Some(login) = self.login.take() {
            return Some(login);
        }
        if let Some(left) = self.questions.checked_sub(1) {
            self.questions = left;
            self.client.sent(now);
            return Some(question());
        }
        matches!(self.phase, Phase::LoggingIn | Phase::Settling | Phase::Ready).then(|| self.client.poll(now))?
    }

    /// Whether the connection serves nothing any more, for the exchange is silent, the session over, or another connection wanted: reset it, and tell
    /// [`Session::disconnected`].
    pub fn is_dead(&self) -> bool {
        let is_open = matches!(self.phase, Phase::LoggingIn | Phase::Settling | Phase::Ready);
        matches!(self.phase, Phase::Over(_)) || is_open && (self.is_used_up || self.client.state() == State::Ended)
    }

    /// Notes that something was sent, which spares a heartbeat.
    #[inline]
    pub fn sent(&mut self, now: Nanos) {
        self.client.sent(now);
    }

    /// Ends the session from this side; send what comes back and close.
    pub fn logout(&mut self) -> Control {
        self.end(Over::LoggedOut);
        self.client.logout()
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        match self.phase {
            Phase::Down { until } => Some(until),
            Phase::LoggingIn | Phase::Settling | Phase::Ready => {
                if self.login.is_none() && self.questions == 0 && !self.is_used_up {
                    self.client.deadline()
                } else {
                    Some(0)
                }
            }
            Phase::Connecting | Phase::Over(_) => None,
        }
    }
}

/// An account query as it goes on the stream, without options.
fn question() -> Control {
    let query = AccountQueryRequest { message_type: Alpha::new("Q") };
    let mut packet = Control::new();
    packet.extend((1 + size_of_val(&query) as u16).to_be_bytes());
    packet.push(kind::UNSEQUENCED);
    packet.extend(query.as_bytes().iter().copied());
    packet
}

#[cfg(test)]
mod tests;
