//! The system calls, in Rust's types. Each says what it does where POSIX leaves that open.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::RawFd;

use barewire_driver::clock::Nanos;
use barewire_netstack::{TcpError, TcpState};
use rustix::io::Errno;

use crate::poll::{self, Polled, Ready};
use crate::simulation::Simulation;
use crate::socket::{Connection, Listener, Role, Socket, is_at_end, is_connecting};
use crate::world::World;

/// The port that packetdrill binds to; others are free for whoever asks for any.
const FIRST_FREE_PORT: u16 = 49_152;
const MILLISECOND: Nanos = 1_000_000;

/// How a call on a socket waits: not at all, for ever, or so long.
fn patience(socket: &Socket, flags: i32, timeout: Option<Nanos>) -> Option<Nanos> {
    if socket.nonblocking || flags & libc::MSG_DONTWAIT != 0 { Some(0) } else { timeout }
}

impl Simulation {
    /// socket(): TCP over IPv4 and nothing else.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<RawFd, Errno> {
        if domain != libc::AF_INET {
            return Err(Errno::AFNOSUPPORT);
        }
        let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        if kind & !flags != libc::SOCK_STREAM || ![0, libc::IPPROTO_TCP].contains(&protocol) {
            return Err(Errno::PROTONOSUPPORT);
        }
        let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        self.call(|world| world.open_socket(Socket { nonblocking, ..Socket::default() }))
    }

    /// bind().
    pub fn bind(&self, fd: RawFd, address: SocketAddrV4) -> Result<(), Errno> {
        self.call(|world| {
            let local = world.local();
            let (socket, _) = world.socket(fd)?;
            if socket.port.is_some() || !matches!(socket.role, Role::Idle) {
                return Err(Errno::INVAL);
            }
            if *address.ip() != Ipv4Addr::UNSPECIFIED && *address.ip() != local {
                return Err(Errno::ADDRNOTAVAIL);
            }
            socket.port = Some(if address.port() == 0 { FIRST_FREE_PORT } else { address.port() });
            Ok(())
        })
    }

    /// listen(). The stack takes as many connections as come.
    pub fn listen(&self, fd: RawFd) -> Result<(), Errno> {
        self.call(|world| {
            let port = world.socket(fd)?.0.port.unwrap_or(FIRST_FREE_PORT);
            if world.is_taken(port, fd) {
                return Err(Errno::ADDRINUSE);
            }
            let (socket, stack) = world.socket(fd)?;
            match socket.role {
                Role::Listener(_) => Ok(()),
                Role::Connection(_) => Err(Errno::INVAL),
                Role::Idle => {
                    let id = stack.listen(port, &socket.options.for_stack()).map_err(errno)?;
                    socket.role = Role::Listener(Listener { id, ready: VecDeque::new() });
                    Ok(())
                }
            }
        })
    }

    /// accept(): the descriptor and the peer. The new socket has the listener's options, and blocks.
    pub fn accept(&self, fd: RawFd) -> Result<(RawFd, SocketAddrV4), Errno> {
        let limit = self.call(|world| {
            let (socket, _) = world.socket(fd)?;
            Ok(patience(socket, 0, socket.options.receive_timeout))
        })?;
        self.wait(limit, |world| {
            let (socket, _) = world.socket(fd)?;
            let Role::Listener(listener) = &mut socket.role else { return Err(Errno::INVAL) };
            let Some((id, peer)) = listener.ready.pop_front() else { return Ok(None) };
            let (options, port) = (socket.options.clone(), socket.port);
            let mut connection = Connection::new(id);
            connection.is_told = true;
            let role = Role::Connection(connection);
            let accepted = world.open_socket(Socket { options, port, role, ..Socket::default() })?;
            Ok(Some((accepted, peer)))
        })
    }

    /// connect(). Once a connection is established, the first call says so, and others fail with EISCONN; after a failure the socket is as new.
    pub fn connect(&self, fd: RawFd, peer: SocketAddrV4) -> Result<(), Errno> {
        let (limit, is_new) = self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            let limit = patience(socket, 0, socket.options.send_timeout);
            match &socket.role {
                Role::Listener(_) => Err(Errno::ISCONN),
                Role::Connection(_) => Ok((limit, false)),
                Role::Idle => {
                    let id = stack.connect(peer, &socket.options.for_stack()).map_err(errno)?;
                    socket.role = Role::Connection(Connection::new(id));
                    Ok((limit, true))
                }
            }
        })?;
        let under_way = if is_new { Errno::INPROGRESS } else { Errno::ALREADY };
        let done = self.wait(limit, |world| {
            let (socket, stack) = world.socket(fd)?;
            let connection = socket.role.connection()?;
            let state = stack.state(connection.id);
            if is_connecting(state) {
                return Ok(None);
            }
            if connection.is_told {
                return Err(Errno::ISCONN);
            }
            connection.is_told = true;
            if state == TcpState::Closed {
                socket.role = Role::Idle;
                // Of the failure, SO_ERROR may have told already.
                return Err(socket.error.take().unwrap_or(Errno::CONNABORTED));
            }
            Ok(Some(()))
        });
        done.map_err(|error| if error == Errno::AGAIN { under_way } else { error })
    }

    /// connect() to no address (AF_UNSPEC): ends the connection at once, and the socket is as new.
    pub fn disconnect(&self, fd: RawFd) -> Result<(), Errno> {
        self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            if let Role::Connection(connection) = std::mem::take(&mut socket.role) {
                stack.abort(connection.id);
                stack.release(connection.id);
            }
            socket.error = None;
            Ok(())
        })
    }

    /// recv() and its family: MSG_PEEK, MSG_WAITALL, MSG_TRUNC (bytes are thrown away), MSG_DONTWAIT.
    pub fn receive(&self, fd: RawFd, buffer: &mut [u8], flags: i32) -> Result<usize, Errno> {
        const KNOWN: i32 = libc::MSG_PEEK
            | libc::MSG_WAITALL
            | libc::MSG_TRUNC
            | libc::MSG_DONTWAIT
            | libc::MSG_NOSIGNAL
            | libc::MSG_CMSG_CLOEXEC;
        if flags & libc::MSG_ERRQUEUE != 0 {
            // There is never anything in it.
            return Err(Errno::AGAIN);
        }
        if flags & !KNOWN != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let limit = self.call(|world| {
            let (socket, _) = world.socket(fd)?;
            Ok(patience(socket, flags, socket.options.receive_timeout))
        })?;
        let peek = flags & libc::MSG_PEEK != 0;
        let whole = flags & libc::MSG_WAITALL != 0 && !peek;
        let mut read = 0;
        let done = self.wait(limit, |world| {
            let (socket, stack) = world.socket(fd)?;
            let least = if whole { buffer.len() } else { socket.options.receive_low.min(buffer.len()) };
            let connection = socket.role.connection()?;
            let state = stack.state(connection.id);
            let is_over = connection.is_read_shut || is_at_end(state);
            let available = connection.readable(stack);
            // MSG_WAITALL takes what there is, so that the window opens for the rest.
            if whole || is_over || socket.error.is_some() || available >= least {
                read += connection.read(stack, &mut buffer[read..], peek);
            }
            if read >= least.max(1) || buffer.is_empty() {
                return Ok(Some(()));
            }
            match socket.error.take().filter(|_| read == 0) {
                Some(error) => Err(error),
                None => Ok((is_over || read > 0 && !whole).then_some(())),
            }
        });
        if read > 0 { Ok(read) } else { done.map(|()| 0) }
    }

    /// send() and its family: MSG_DONTWAIT, MSG_MORE; without MSG_NOSIGNAL there is no signal either. A call that may wait writes everything, or
    /// what it could before it failed.
    pub fn transmit(&self, fd: RawFd, bytes: &[u8], flags: i32) -> Result<usize, Errno> {
        const KNOWN: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_EOR;
        if flags & !KNOWN != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let limit = self.call(|world| {
            let (socket, _) = world.socket(fd)?;
            Ok(patience(socket, flags, socket.options.send_timeout))
        })?;
        let more = flags & libc::MSG_MORE != 0;
        let mut written = 0;
        let done = self.wait(limit, |world| {
            let (socket, stack) = world.socket(fd)?;
            if let Some(error) = socket.error.take() {
                return Err(error);
            }
            let connection = socket.role.connection()?;
            let state = stack.state(connection.id);
            if connection.is_write_shut() || !may_send(state) {
                return Err(Errno::PIPE);
            }
            if !is_connecting(state) {
                let room = connection.room(stack, &socket.options).min(bytes.len() - written);
                connection.write(stack, &socket.options, &bytes[written..written + room], more);
                written += room;
            }
            Ok((written == bytes.len()).then_some(()))
        });
        if written > 0 { Ok(written) } else { done.map(|()| 0) }
    }

    /// shutdown().
    pub fn shutdown(&self, fd: RawFd, how: i32) -> Result<(), Errno> {
        let (read, write) = match how {
            libc::SHUT_RD => (true, false),
            libc::SHUT_WR => (false, true),
            libc::SHUT_RDWR => (true, true),
            _ => return Err(Errno::INVAL),
        };
        self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            let connection = match &mut socket.role {
                Role::Connection(connection) if stack.state(connection.id) != TcpState::Closed => connection,
                _ => return Err(Errno::NOTCONN),
            };
            connection.is_read_shut |= read;
            if write {
                connection.shut_write(stack, &socket.options);
            }
            Ok(())
        })
    }

    /// close(). With SO_LINGER it waits until everything is acknowledged.
    pub fn close(&self, fd: RawFd) -> Result<(), Errno> {
        let linger = self.call(|world| match world.socket(fd) {
            Ok((socket, _)) => socket.options.linger.filter(|linger| *linger > 0 && !socket.nonblocking),
            Err(_) => None,
        });
        if let Some(linger) = linger {
            self.call(|world| {
                let (socket, stack) = world.socket(fd)?;
                if let Role::Connection(connection) = &mut socket.role
                    && !is_connecting(stack.state(connection.id))
                    && connection.readable(stack) == 0
                {
                    connection.shut_write(stack, &socket.options);
                }
                Ok::<_, Errno>(())
            })?;
            // What is not acknowledged by then goes on without anybody waiting.
            let _: Result<(), Errno> = self.wait(Some(linger), |world| {
                let (socket, stack) = world.socket(fd)?;
                Ok(socket.role.connection()?.is_acknowledged(stack).then_some(()))
            });
        }
        self.call(|world| world.close(fd))
    }

    /// getsockopt(): the value's bytes.
    pub fn get_option(&self, fd: RawFd, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            socket.get_option(stack, level, name)
        })
    }

    /// setsockopt().
    pub fn set_option(&self, fd: RawFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            socket.set_option(stack, level, name, value)
        })
    }

    /// fcntl(): F_GETFL, F_SETFL with O_NONBLOCK, F_GETFD, F_SETFD.
    pub fn control(&self, fd: RawFd, command: i32, argument: i32) -> Result<i32, Errno> {
        self.call(|world| {
            let (socket, _) = world.socket(fd)?;
            match command {
                libc::F_GETFL => Ok(libc::O_RDWR | if socket.nonblocking { libc::O_NONBLOCK } else { 0 }),
                libc::F_SETFL => {
                    socket.nonblocking = argument & libc::O_NONBLOCK != 0;
                    Ok(0)
                }
                libc::F_GETFD => Ok(libc::FD_CLOEXEC),
                libc::F_SETFD => Ok(0),
                _ => Err(Errno::INVAL),
            }
        })
    }

    /// ioctl() with an answer: SIOCINQ, which is FIONREAD, SIOCOUTQ and SIOCOUTQNSD.
    pub fn inquire(&self, fd: RawFd, request: u64) -> Result<i32, Errno> {
        const SIOCINQ: u64 = libc::FIONREAD;
        const SIOCOUTQ: u64 = libc::TIOCOUTQ;
        const SIOCOUTQNSD: u64 = 0x894B;
        self.call(|world| {
            let (socket, stack) = world.socket(fd)?;
            let connection = match &mut socket.role {
                Role::Connection(connection) => connection,
                Role::Idle => return Ok(0),
                Role::Listener(_) => return Err(Errno::INVAL),
            };
            let bytes = match request {
                SIOCINQ => connection.readable(stack),
                SIOCOUTQ => connection.queued(stack),
                SIOCOUTQNSD => connection.held(),
                _ => return Err(Errno::NOTTY),
            };
            Ok(i32::try_from(bytes).unwrap_or(i32::MAX))
        })
    }

    /// poll(): `timeout` in milliseconds, for ever where it is negative.
    pub fn poll(&self, set: &mut [Polled], timeout: i32) -> Result<usize, Errno> {
        let ready = self.wait(milliseconds(timeout), |world| {
            let ready = poll::poll(world, set);
            Ok((ready > 0).then_some(ready))
        });
        ready.or_else(none_in_time)
    }

    /// epoll_create().
    pub fn epoll_create(&self) -> Result<RawFd, Errno> {
        self.call(World::open_epoll)
    }

    /// epoll_ctl().
    pub fn epoll_control(&self, set: RawFd, operation: i32, fd: RawFd, events: u32, data: u64) -> Result<(), Errno> {
        self.call(|world| {
            world.socket(fd)?;
            let mut epoll = world.take_epoll(set)?;
            let result = epoll.control(operation, fd, events, data);
            world.put_epoll(set, epoll);
            result
        })
    }

    /// epoll_wait(): `timeout` in milliseconds, for ever where it is negative.
    pub fn epoll_wait(&self, set: RawFd, limit: usize, timeout: i32) -> Result<Vec<Ready>, Errno> {
        let ready = self.wait(milliseconds(timeout), |world| {
            let mut epoll = world.take_epoll(set)?;
            let ready = epoll.ready(world, limit);
            world.put_epoll(set, epoll);
            Ok((!ready.is_empty()).then_some(ready))
        });
        ready.or_else(none_in_time)
    }

    /// A packet arrives at the stack.
    pub fn inject(&self, packet: &[u8]) -> Result<(), Errno> {
        self.call(|world| world.inject(packet))
    }
}

/// The stack's refusals as errors of system calls.
fn errno(error: TcpError) -> Errno {
    match error {
        TcpError::PortInUse(_) => Errno::ADDRINUSE,
        TcpError::NoPort | TcpError::BadAddress => Errno::ADDRNOTAVAIL,
        TcpError::NoSession(_) | TcpError::TooManySegments | TcpError::Busy(_) => Errno::NOBUFS,
        _ => Errno::INVAL,
    }
}

fn milliseconds(timeout: i32) -> Option<Nanos> {
    Nanos::try_from(timeout).ok().map(|timeout| timeout * MILLISECOND)
}

/// Nothing is what poll() and epoll_wait() return in vain.
fn none_in_time<T: Default>(error: Errno) -> Result<T, Errno> {
    if error == Errno::AGAIN { Ok(T::default()) } else { Err(error) }
}

/// Whether something can be sent in `state`, now or once the connection is established.
fn may_send(state: TcpState) -> bool {
    is_connecting(state) || matches!(state, TcpState::Established | TcpState::CloseWait)
}
