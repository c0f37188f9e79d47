//! The stack under test, the sockets on it and the wire, at one instant.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use barewire_driver::clock::Nanos;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::flags::Flags;
use crate::poll::Epoll;
use crate::socket::{Connection, Options, Role, Socket, is_connecting};
use crate::stack::Tcp;
use crate::wire::{Refused, Sent, Wire};

/// The first instant: not zero, which packetdrill takes for "no time".
const START: Nanos = 1_000_000_000;
/// The clock's resolution: packetdrill counts microseconds.
const MICROSECOND: Nanos = 1_000;
/// How often a stack may ask to be polled again at one instant, at most, and how long one is left alone that asks for more, in nanoseconds.
const ROUNDS: u32 = 64;
const REST: Nanos = 1_000_000;

/// Everything but the clock's hands.
pub struct World {
    now: Nanos,
    local: Ipv4Addr,
    stack: Tcp,
    /// The stack is not polled for the sake of time before.
    rests_until: Nanos,
    wire: Wire,
    descriptors: BTreeMap<RawFd, Entry>,
    /// Connections that were closed and are not over.
    orphans: Vec<(Connection, Options)>,
}

/// What a descriptor stands for. The file is `/dev/null`: packetdrill closes what is left with the C library's close().
struct Entry {
    file: OwnedFd,
    thing: Thing,
}

enum Thing {
    Socket(Box<Socket>),
    Epoll(Epoll),
}

impl World {
    /// A world with nothing in it but the stack.
    pub fn new(flags: &Flags) -> Result<Self, barewire_driver::Error> {
        let wire = Wire::default();
        let stack = Tcp::open(flags, &wire)?;
        let (descriptors, orphans) = (BTreeMap::new(), Vec::new());
        let mut world = Self { now: START, local: flags.local, stack, rests_until: 0, wire, descriptors, orphans };
        world.settle();
        Ok(world)
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The stack's address.
    pub fn local(&self) -> Ipv4Addr {
        self.local
    }

    /// Moves to `at`, where something is due, and lets it happen.
    pub fn advance(&mut self, at: Nanos) {
        self.now = self.now.max(at);
        self.settle();
    }

    /// When something is due next. Always after now: what is due now has been done.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let sockets = self.descriptors.values().filter_map(|entry| match &entry.thing {
            Thing::Socket(socket) => socket.deadline(),
            Thing::Epoll(_) => None,
        });
        let stack = self.stack.next_deadline(self.now).map(|deadline| deadline.max(self.rests_until));
        let next = sockets.chain(stack).min()?;
        Some(next.max(self.now + MICROSECOND))
    }

    /// Lets the stack and the sockets do what there is to do at this instant.
    pub fn settle(&mut self) {
        self.wire.set_time(self.now);
        for _ in 0..ROUNDS {
            self.stack.poll(self.now);
            self.attend();
            let is_due = self.stack.next_deadline(self.now).is_some_and(|deadline| deadline <= self.now);
            if !is_due && !self.wire.has_arrivals() {
                return;
            }
        }
        if self.rests_until == 0 {
            eprintln!(
                "barewire-packetdrill: the stack asks to be polled over and over; it rests for a millisecond each time"
            );
        }
        self.rests_until = self.now + REST;
    }

    fn attend(&mut self) {
        let stack = &mut self.stack;
        for entry in self.descriptors.values_mut() {
            if let Thing::Socket(socket) = &mut entry.thing {
                socket.attend(stack, self.now);
            }
        }
        self.orphans.retain_mut(|(connection, options)| connection.attend_orphan(stack, options));
    }

    /// A packet from packetdrill arrives.
    pub fn inject(&mut self, packet: &[u8]) -> Result<(), Errno> {
        self.wire.inject(packet).map_err(|refused| match refused {
            Refused::TooLong => Errno::MSGSIZE,
            Refused::NotIpv4 => Errno::AFNOSUPPORT,
        })
    }

    /// The next packet that the stack sent.
    pub fn next_sent(&mut self) -> Option<Sent> {
        self.wire.next_sent()
    }

    fn open(&mut self, thing: Thing) -> Result<RawFd, Errno> {
        let file = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let fd = file.as_raw_fd();
        self.descriptors.insert(fd, Entry { file, thing });
        Ok(fd)
    }

    /// A descriptor for `socket`.
    pub fn open_socket(&mut self, socket: Socket) -> Result<RawFd, Errno> {
        self.open(Thing::Socket(Box::new(socket)))
    }

    /// A descriptor for an epoll set.
    pub fn open_epoll(&mut self) -> Result<RawFd, Errno> {
        self.open(Thing::Epoll(Epoll::default()))
    }

    /// A socket, and the stack that it is on.
    pub fn socket(&mut self, fd: RawFd) -> Result<(&mut Socket, &mut Tcp), Errno> {
        match &mut self.descriptors.get_mut(&fd).ok_or(Errno::BADF)?.thing {
            Thing::Socket(socket) => Ok((socket, &mut self.stack)),
            Thing::Epoll(_) => Err(Errno::NOTSOCK),
        }
    }

    /// An epoll set, taken out so that it can look at the sockets; [`World::put_epoll`] puts it back.
    pub fn take_epoll(&mut self, fd: RawFd) -> Result<Epoll, Errno> {
        match &mut self.descriptors.get_mut(&fd).ok_or(Errno::BADF)?.thing {
            Thing::Epoll(epoll) => Ok(std::mem::take(epoll)),
            Thing::Socket(_) => Err(Errno::INVAL),
        }
    }

    /// Puts an epoll set back.
    pub fn put_epoll(&mut self, fd: RawFd, epoll: Epoll) {
        if let Some(Entry { thing, .. }) = self.descriptors.get_mut(&fd) {
            *thing = Thing::Epoll(epoll);
        }
    }

    /// Whether another socket than `fd` listens on `port`.
    pub fn is_taken(&self, port: u16, fd: RawFd) -> bool {
        self.descriptors.iter().any(|(&other, entry)| match &entry.thing {
            Thing::Socket(socket) => {
                other != fd && socket.port == Some(port) && matches!(socket.role, Role::Listener(_))
            }
            Thing::Epoll(_) => false,
        })
    }

    /// Closes a descriptor. A connection goes on without it until everything is sent, or is reset where something was received that nobody read
    /// (RFC 9293, 3.6.1) or SO_LINGER says so.
    pub fn close(&mut self, fd: RawFd) -> Result<(), Errno> {
        let entry = self.descriptors.remove(&fd).ok_or(Errno::BADF)?;
        for Entry { thing, .. } in self.descriptors.values_mut() {
            if let Thing::Epoll(epoll) = thing {
                epoll.forget(fd);
            }
        }
        let Thing::Socket(socket) = entry.thing else { return Ok(()) };
        let (stack, Socket { options, role, .. }) = (&mut self.stack, *socket);
        match role {
            Role::Idle => {}
            Role::Listener(listener) => {
                for (id, _) in listener.ready {
                    stack.abort(id);
                    stack.release(id);
                }
                stack.stop_listening(listener.id);
            }
            Role::Connection(connection) if is_connecting(stack.state(connection.id)) => stack.release(connection.id),
            Role::Connection(connection) if options.linger == Some(0) || connection.readable(stack) > 0 => {
                stack.abort(connection.id);
                stack.release(connection.id);
            }
            Role::Connection(mut connection) => {
                connection.shut_write(stack, &options);
                self.orphans.push((connection, options));
            }
        }
        Ok(())
    }
}

impl Drop for World {
    /// packetdrill has closed the descriptors that the script left open, and the numbers may be other files' by now.
    fn drop(&mut self) {
        for (_, entry) in std::mem::take(&mut self.descriptors) {
            let _: RawFd = entry.file.into_raw_fd();
        }
    }
}
