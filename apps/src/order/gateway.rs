//! The exchange's end of all order sessions: accounts, what each was told, and who is connected.
//!
//! Every account keeps its numbered messages for the day, so that a client that comes back hears again what it has missed. The gateway moves no bytes
//! itself: what arrives is handed to it, what is to leave is asked of it.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::soupbin::{Assembler, Server, ServerEvent, State, kind, wrap};
use crate::fields::Alpha;

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Bytes of numbered messages that are made ready for a connection at a time.
const WINDOW: usize = 8192;

/// An account: a number space for orders, a position, a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u16);

/// Who may log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: Alpha<6>,
    /// The password.
    pub password: Alpha<10>,
}

/// What a client has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// It has logged in.
    LoggedIn,
    /// An OUCH message.
    Message(&'a [u8]),
    /// Its connection is gone, or another has taken its place.
    Left,
}

/// What one account was told today.
#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Log {
    /// Message `sequence`; the first has number 1.
    fn get(&self, sequence: u64) -> Option<&[u8]> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..*self.ends.get(index)?)
    }

    fn next_sequence(&self) -> u64 {
        self.ends.len() as u64 + 1
    }
}

/// What every account was told today. It grows with the day: any number may be asked for again.
#[derive(Debug, Default)]
pub struct Logs(Vec<Log>);

impl Logs {
    /// Tells an account `message`, now or when it comes back.
    pub fn say(&mut self, account: AccountId, message: &[u8]) {
        if let Some(log) = self.0.get_mut(usize::from(account.0)) {
            log.bytes.extend_from_slice(message);
            log.ends.push(log.bytes.len());
        }
    }
}

/// What the gateway counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Logins accepted.
    pub logins: u64,
    /// Logins refused.
    pub refused: u64,
    /// Numbered messages sent again after a reconnect.
    pub replayed: u64,
    /// Packets that made no sense where they came.
    pub unexpected: u64,
    /// Streams that made no sense any more.
    pub broken: u64,
}

#[derive(Debug)]
struct Connection<C> {
    id: C,
    server: Server,
    assembler: Assembler,
    account: Option<AccountId>,
    /// Packets that are ready to leave.
    outbox: Vec<u8>,
    next_sequence: u64,
}

impl<C> Connection<C> {
    /// Whether nothing more is read from it.
    fn is_over(&self) -> bool {
        self.server.state() == State::Ended
    }

    /// Makes messages that the client has not heard ready to leave, until about `most` bytes are.
    fn make_ready(&mut self, logs: &Logs, most: usize) {
        let Some(log) = self.account.and_then(|account| logs.0.get(usize::from(account.0))) else { return };
        while self.outbox.len() < most
            && let Some(message) = log.get(self.next_sequence)
        {
            wrap(kind::SEQUENCED, message, &mut self.outbox);
            self.next_sequence += 1;
        }
    }
}

/// Accounts and connections; `C` names a connection of whatever carries them.
#[derive(Debug)]
pub struct Gateway<C> {
    session: Alpha<10>,
    accounts: Vec<Credentials>,
    logs: Logs,
    connections: Vec<Connection<C>>,
    patience: Nanos,
    stats: Stats,
}

impl<C: Copy + Eq> Gateway<C> {
    /// A gateway for `accounts` in the session of that name, which bears a client's silence for `patience`.
    pub fn new(session: &str, accounts: Vec<Credentials>, patience: Nanos) -> Self {
        let logs = Logs(accounts.iter().map(|_| Log::default()).collect());
        Self {
            session: Alpha::new(session),
            accounts,
            logs,
            connections: Vec::new(),
            patience,
            stats: Stats::default(),
        }
    }

    /// What it counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Where messages for accounts go.
    pub fn logs(&mut self) -> &mut Logs {
        &mut self.logs
    }

    /// Somebody has connected; `false` when there is no room, and the connection should be closed.
    pub fn connected(&mut self, now: Nanos, id: C) -> bool {
        if self.connections.len() >= MAX_CONNECTIONS {
            return false;
        }
        let server = Server::new(now).with_patience(self.patience);
        let (assembler, outbox) = (Assembler::default(), Vec::new());
        self.connections.push(Connection { id, server, assembler, account: None, outbox, next_sequence: 0 });
        true
    }

    /// Takes what has arrived on a connection; `on` learns what the clients want.
    pub fn receive(&mut self, now: Nanos, id: C, bytes: &[u8], mut on: impl FnMut(AccountId, Request<'_>, &mut Logs)) {
        let Some(at) = self.connections.iter().position(|connection| connection.id == id) else { return };
        // Out of the list while it is served: a login may end another connection of its account.
        let mut connection = self.connections.swap_remove(at);
        let mut assembler = std::mem::take(&mut connection.assembler);
        let fed = assembler.feed(bytes, |packet| {
            if connection.is_over() {
                return;
            }
            match connection.server.receive(now, packet) {
                ServerEvent::Login { user, password, session, next_sequence } => {
                    match self.admit(user, password, session) {
                        Ok(account) => {
                            self.leave(account, &mut on);
                            self.welcome(now, &mut connection, account, next_sequence);
                            on(account, Request::LoggedIn, &mut self.logs);
                        }
                        Err(reason) => {
                            self.stats.refused += 1;
                            connection.outbox.extend_from_slice(&connection.server.reject(reason));
                        }
                    }
                }
                ServerEvent::Message(message) => {
                    if let Some(account) = connection.account {
                        on(account, Request::Message(message), &mut self.logs);
                    }
                }
                ServerEvent::Logout | ServerEvent::Nothing => {}
                ServerEvent::Unexpected(kind) => {
                    log::warn!("order session: unexpected packet of type {kind:#04x}");
                    self.stats.unexpected += 1;
                }
            }
        });
        connection.assembler = assembler;
        if let Err(error) = fed {
            log::warn!("order session: {error}; the connection ends");
            self.stats.broken += 1;
            connection.server.end();
        }
        self.connections.push(connection);
    }

    /// The account that may log in so, or why not: A not authorised, S no such session.
    fn admit(&self, user: &str, password: &str, session: &str) -> Result<AccountId, &'static str> {
        let given = Credentials { user: Alpha::new(user), password: Alpha::new(password) };
        let known = (0..).zip(&self.accounts).find(|(_, credentials)| **credentials == given);
        let (number, _) = known.ok_or("A")?;
        let is_current = session.is_empty() || Alpha::new(session) == self.session;
        is_current.then_some(AccountId(number)).ok_or("S")
    }

    /// Ends the connection that the account has, if any.
    fn leave(&mut self, account: AccountId, on: &mut impl FnMut(AccountId, Request<'_>, &mut Logs)) {
        for connection in self.connections.iter_mut().filter(|connection| connection.account == Some(account)) {
            connection.server.end();
            connection.account = None;
            on(account, Request::Left, &mut self.logs);
        }
    }

    fn welcome(&mut self, now: Nanos, connection: &mut Connection<C>, account: AccountId, next_sequence: u64) {
        self.stats.logins += 1;
        let next = self.logs.0.get(usize::from(account.0)).map_or(1, Log::next_sequence);
        // Zero asks for new messages only; a number that is not reached yet cannot be waited for.
        let first = if next_sequence == 0 { next } else { next_sequence.min(next) };
        self.stats.replayed += next - first;
        connection.account = Some(account);
        connection.next_sequence = first;
        connection.outbox.extend_from_slice(&connection.server.accept(now, &self.session.to_string(), first));
    }

    /// A connection is gone.
    pub fn closed(&mut self, id: C, mut on: impl FnMut(AccountId, Request<'_>, &mut Logs)) {
        let Some(at) = self.connections.iter().position(|connection| connection.id == id) else { return };
        if let Some(account) = self.connections.swap_remove(at).account {
            on(account, Request::Left, &mut self.logs);
        }
    }

    /// The connections.
    pub fn connections(&self) -> impl Iterator<Item = C> {
        self.connections.iter().map(|connection| connection.id)
    }

    /// What is to be sent on a connection.
    pub fn outbox(&mut self, id: C) -> &[u8] {
        let Self { connections, logs, .. } = self;
        let Some(connection) = connections.iter_mut().find(|connection| connection.id == id) else { return &[] };
        if !connection.is_over() {
            connection.make_ready(logs, WINDOW);
        }
        &connection.outbox
    }

    /// The first `len` bytes of the outbox have left.
    pub fn sent(&mut self, now: Nanos, id: C, len: usize) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            connection.outbox.drain(..len.min(connection.outbox.len()));
            connection.server.sent(now);
        }
    }

    /// Heartbeats, into the outboxes of quiet connections. A client that was silent too long is over.
    pub fn poll(&mut self, now: Nanos) {
        for connection in &mut self.connections {
            let was_over = connection.is_over();
            match connection.server.poll(now) {
                // Before a login there is nobody to be told.
                Some(heartbeat) if connection.account.is_some() => connection.outbox.extend_from_slice(&heartbeat),
                // Nobody takes any more what waits for a client that is dead.
                None if !was_over && connection.is_over() => connection.outbox.clear(),
                _ => {}
            }
        }
    }

    /// Whether a connection has nothing more to say or to hear, and should be closed.
    pub fn is_over(&self, id: C) -> bool {
        let connection = self.connections.iter().find(|connection| connection.id == id);
        connection.is_none_or(|connection| connection.is_over() && connection.outbox.is_empty())
    }

    /// Ends the session of every account: nothing follows what was said.
    pub fn end(&mut self) {
        let Self { connections, logs, .. } = self;
        for connection in
            connections.iter_mut().filter(|connection| connection.account.is_some() && !connection.is_over())
        {
            connection.make_ready(logs, usize::MAX);
            connection.outbox.extend_from_slice(&connection.server.end());
        }
    }

    /// When [`Gateway::poll`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        self.connections.iter().filter_map(|connection| connection.server.deadline()).min()
    }
}

#[cfg(test)]
mod tests;
