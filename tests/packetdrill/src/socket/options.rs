//! Socket options: setsockopt and getsockopt.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use barewire_netstack::{Keepalive, TcpOptions, TcpState};
use rustix::io::Errno;

use super::{Role, Socket};
use crate::stack::Tcp;
use crate::tcp_info;

const SECOND: Nanos = 1_000_000_000;
const MILLISECOND: Nanos = 1_000_000;
const MICROSECOND: Nanos = 1_000;
/// How long acknowledgements wait when TCP_QUICKACK is switched off, in nanoseconds.
const ACK_DELAY: Nanos = 40 * MILLISECOND;
/// The most that TCP_KEEPIDLE and TCP_KEEPINTVL take, in seconds (Linux).
const MOST_SECONDS: u32 = 32_767;
/// The largest payload that TCP_MAXSEG takes, in bytes (Linux).
const MOST_SEGMENT: usize = 32_767;

/// What setsockopt can change.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP_NODELAY: Nagle's algorithm is off.
    pub no_delay: bool,
    /// TCP_CORK: only full segments leave.
    pub cork: bool,
    /// SO_SNDBUF, in bytes.
    pub send_buffer: usize,
    /// TCP_NOTSENT_LOWAT, in bytes: the socket is writable while less than this waits unsent. Zero is no limit.
    pub unsent_low: u32,
    /// SO_RCVLOWAT, in bytes: less than this is nothing to read, but at the end.
    pub receive_low: usize,
    /// SO_RCVTIMEO; `None` waits for ever.
    pub receive_timeout: Option<Nanos>,
    /// SO_SNDTIMEO; `None` waits for ever.
    pub send_timeout: Option<Nanos>,
    /// SO_LINGER: how long close() waits for acknowledgements; zero resets the connection.
    pub linger: Option<Nanos>,
    /// SO_REUSEADDR, which changes nothing: a port is taken by a listener only.
    pub reuse_address: bool,
    /// What the stack is told.
    stack: ForStack,
}

/// Options that the stack keeps to.
#[derive(Debug, Clone, Copy)]
struct ForStack {
    /// SO_RCVBUF, in bytes.
    receive_buffer: usize,
    /// TCP_MAXSEG, in bytes.
    max_segment: Option<u16>,
    /// TCP_QUICKACK.
    quick_ack: bool,
    /// SO_KEEPALIVE.
    keepalive: bool,
    /// TCP_KEEPIDLE and TCP_KEEPINTVL, in seconds; TCP_KEEPCNT.
    keepalive_idle: u32,
    keepalive_interval: u32,
    keepalive_probes: u8,
    /// TCP_USER_TIMEOUT, in milliseconds; zero is the stack's own.
    user_timeout: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            no_delay: false,
            cork: false,
            send_buffer: 256 << 10,
            unsent_low: 0,
            receive_low: 1,
            receive_timeout: None,
            send_timeout: None,
            linger: None,
            reuse_address: false,
            stack: ForStack {
                receive_buffer: 64 << 10,
                max_segment: None,
                quick_ack: true,
                keepalive: false,
                keepalive_idle: 7200,
                keepalive_interval: 75,
                keepalive_probes: 9,
                user_timeout: 0,
            },
        }
    }
}

impl Options {
    /// In the stack's terms.
    pub fn for_stack(&self) -> TcpOptions {
        let (default, stack) = (TcpOptions::default(), &self.stack);
        let seconds = |count: u32| Nanos::from(count) * SECOND;
        let keepalive = Keepalive {
            idle: seconds(stack.keepalive_idle),
            interval: seconds(stack.keepalive_interval),
            probes: stack.keepalive_probes.into(),
        };
        TcpOptions {
            receive_window: stack.receive_buffer as u32,
            mss: stack.max_segment.unwrap_or(default.mss),
            ack_delay: if stack.quick_ack { default.ack_delay } else { ACK_DELAY },
            keepalive: stack.keepalive.then_some(keepalive),
            user_timeout: (stack.user_timeout > 0).then(|| Nanos::from(stack.user_timeout) * MILLISECOND),
            ..default
        }
    }
}

impl ForStack {
    /// Changes an option; `None` when it is none of these.
    fn set(&mut self, level: i32, name: i32, value: &[u8]) -> Option<Result<(), Errno>> {
        let set = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => size(value).map(|bytes| self.receive_buffer = bytes),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => integer(value).map(|on| self.keepalive = on != 0),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                let bytes = size(value).and_then(|bytes| within(bytes, 64..=MOST_SEGMENT));
                bytes.map(|bytes| self.max_segment = Some(bytes as u16))
            }
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => integer(value).map(|on| self.quick_ack = on != 0),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => seconds(value).map(|count| self.keepalive_idle = count),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => seconds(value).map(|count| self.keepalive_interval = count),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => {
                let probes = size(value).and_then(|count| within(count, 1..=127));
                probes.map(|count| self.keepalive_probes = count as u8)
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => size(value).map(|count| self.user_timeout = count as u32),
            _ => return None,
        };
        Some(set)
    }

    fn get(&self, level: i32, name: i32) -> Option<i32> {
        Some(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => self.receive_buffer as i32,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => self.keepalive.into(),
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => self.quick_ack.into(),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => self.keepalive_idle as i32,
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => self.keepalive_interval as i32,
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => self.keepalive_probes.into(),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => self.user_timeout as i32,
            _ => return None,
        })
    }
}

/// The first integer of an option's value.
fn integer(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::INVAL)
}

/// An integer that must not be negative.
fn size(value: &[u8]) -> Result<usize, Errno> {
    usize::try_from(integer(value)?).map_err(|_| Errno::INVAL)
}

fn within(value: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize, Errno> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::INVAL) }
}

fn seconds(value: &[u8]) -> Result<u32, Errno> {
    size(value).and_then(|count| within(count, 1..=MOST_SECONDS as usize)).map(|count| count as u32)
}

/// A `struct timeval`, of which zero means no limit.
fn time(value: &[u8]) -> Result<Option<Nanos>, Errno> {
    let (seconds, rest) = value.split_first_chunk().ok_or(Errno::INVAL)?;
    let microseconds = rest.first_chunk().ok_or(Errno::INVAL)?;
    let nanos = |bytes: &[u8; 8], unit: Nanos| {
        Nanos::try_from(i64::from_ne_bytes(*bytes)).map_or(Err(Errno::DOM), |count| Ok(count.saturating_mul(unit)))
    };
    let limit = nanos(seconds, SECOND)?.saturating_add(nanos(microseconds, MICROSECOND)?);
    Ok((limit > 0).then_some(limit))
}

/// A `struct linger`.
fn linger(value: &[u8]) -> Result<Option<Nanos>, Errno> {
    let seconds = integer(value.get(4..).unwrap_or_default())?;
    let seconds = Nanos::try_from(seconds).map_err(|_| Errno::INVAL)?;
    Ok((integer(value)? != 0).then_some(seconds * SECOND))
}

fn from_time(limit: Option<Nanos>) -> Vec<u8> {
    let limit = limit.unwrap_or(0);
    [limit / SECOND, limit % SECOND / MICROSECOND].iter().flat_map(|part| part.to_ne_bytes()).collect()
}

fn from_linger(linger: Option<Nanos>) -> Vec<u8> {
    let seconds = (linger.unwrap_or(0) / SECOND) as i32;
    [i32::from(linger.is_some()), seconds].iter().flat_map(|part| part.to_ne_bytes()).collect()
}

impl Socket {
    /// setsockopt(). What the stack would have to keep to and cannot is no option of it (ENOPROTOOPT).
    pub fn set_option(&mut self, stack: &mut Tcp, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if let Some(set) = self.options.stack.clone().set(level, name, value) {
            if !stack.has_options() {
                return Err(Errno::NOPROTOOPT);
            }
            set?;
            self.options.stack.set(level, name, value);
            // Neither fails: the options have been checked, and a connection that is over has none.
            let _ = match &self.role {
                Role::Idle => Ok(()),
                Role::Listener(listener) => stack.set_listener_options(listener.id, &self.options.for_stack()),
                Role::Connection(connection) => stack.set_options(connection.id, &self.options.for_stack()),
            };
            return Ok(());
        }
        let options = &mut self.options;
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address = integer(value)? != 0,
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => options.send_buffer = size(value)?.max(1),
            (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => options.receive_low = size(value)?.max(1),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => options.receive_timeout = time(value)?,
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => options.send_timeout = time(value)?,
            (libc::SOL_SOCKET, libc::SO_LINGER) => options.linger = linger(value)?,
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => options.no_delay = integer(value)? != 0,
            (libc::IPPROTO_TCP, libc::TCP_CORK) => options.cork = integer(value)? != 0,
            (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => options.unsent_low = integer(value)? as u32,
            _ => return Err(Errno::NOPROTOOPT),
        }
        if let Role::Connection(connection) = &mut self.role {
            // Switching Nagle's algorithm off lets go what was held, corked or not (Linux, tcp(7)).
            let push = (level, name) == (libc::IPPROTO_TCP, libc::TCP_NODELAY) && self.options.no_delay;
            connection.pump(stack, &self.options, push);
        }
        Ok(())
    }

    /// getsockopt(): the value's bytes.
    pub fn get_option(&mut self, stack: &mut Tcp, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let options = &self.options;
        if let Some(number) = options.stack.get(level, name) {
            return Ok(number.to_ne_bytes().to_vec());
        }
        let number = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => self.error.take().map_or(0, Errno::raw_os_error),
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_INET,
            (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => i32::from(matches!(self.role, Role::Listener(_))),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address.into(),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => options.send_buffer as i32,
            (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => options.receive_low as i32,
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => return Ok(from_time(options.receive_timeout)),
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => return Ok(from_time(options.send_timeout)),
            (libc::SOL_SOCKET, libc::SO_LINGER) => return Ok(from_linger(options.linger)),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => options.no_delay.into(),
            (libc::IPPROTO_TCP, libc::TCP_CORK) => options.cork.into(),
            (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => options.unsent_low as i32,
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => match &self.role {
                Role::Connection(connection) => stack.segment_size(connection.id) as i32,
                // What everybody takes (RFC 9293, 3.7.1) stands for what nobody has agreed on.
                Role::Idle | Role::Listener(_) => options.stack.max_segment.unwrap_or(536).into(),
            },
            (libc::IPPROTO_TCP, libc::TCP_INFO) => return Ok(self.info(stack)),
            _ => return Err(Errno::NOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn info(&self, stack: &mut Tcp) -> Vec<u8> {
        match &self.role {
            Role::Idle => tcp_info::encode(TcpState::Closed, None, 0),
            Role::Listener(_) => tcp_info::encode(TcpState::Listen, None, 0),
            Role::Connection(connection) => {
                let (state, report) = (stack.state(connection.id), stack.report(connection.id));
                tcp_info::encode(state, report.as_ref(), connection.held())
            }
        }
    }
}
