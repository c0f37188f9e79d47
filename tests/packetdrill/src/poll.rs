//! Readiness: poll and epoll.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use barewire_netstack::TcpState;
use libc::{
    EPOLLET, EPOLLONESHOT, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM, c_short,
};
use rustix::io::Errno;

use crate::socket::{Role, is_at_end, is_connecting};
use crate::world::World;

/// What poll() reports whether asked for or not.
const ALWAYS: c_short = POLLERR | POLLHUP | POLLNVAL;

/// What a descriptor is ready for, as poll(2) tells it. epoll's events have the same bits.
pub fn readiness(world: &mut World, fd: RawFd) -> c_short {
    let Ok((socket, stack)) = world.socket(fd) else { return POLLNVAL };
    let mut ready = if socket.error.is_some() { POLLERR } else { 0 };
    match &mut socket.role {
        Role::Idle => ready |= POLLOUT | POLLWRNORM | POLLHUP,
        Role::Listener(listener) if listener.ready.is_empty() => {}
        Role::Listener(_) => ready |= POLLIN | POLLRDNORM,
        Role::Connection(connection) => {
            let state = stack.state(connection.id);
            if is_connecting(state) {
                return ready;
            }
            let is_over = connection.is_read_shut || is_at_end(state);
            if is_over {
                ready |= POLLIN | POLLRDNORM | POLLRDHUP;
            }
            if state == TcpState::Closed || (is_over && connection.is_write_shut()) {
                ready |= POLLHUP;
            }
            if connection.readable(stack) >= socket.options.receive_low {
                ready |= POLLIN | POLLRDNORM;
            }
            if connection.is_write_shut() || state == TcpState::Closed || connection.is_writable(stack, &socket.options)
            {
                ready |= POLLOUT | POLLWRNORM;
            }
        }
    }
    ready
}

/// One descriptor of a poll() call: what is asked about it, and the answer.
#[derive(Debug, Clone, Copy)]
pub struct Polled {
    /// The descriptor; a negative one is passed over.
    pub fd: RawFd,
    /// What is asked for.
    pub events: c_short,
    /// What is so.
    pub ready: c_short,
}

/// Fills in what each descriptor is ready for, and returns how many are.
pub fn poll(world: &mut World, set: &mut [Polled]) -> usize {
    for polled in set.iter_mut() {
        polled.ready = if polled.fd < 0 { 0 } else { readiness(world, polled.fd) & (polled.events | ALWAYS) };
    }
    set.iter().filter(|polled| polled.ready != 0).count()
}

/// An epoll set.
#[derive(Default)]
pub struct Epoll {
    interests: Vec<Interest>,
}

/// A descriptor in an epoll set.
struct Interest {
    fd: RawFd,
    /// EPOLL* as they were given.
    events: u32,
    /// The caller's.
    data: u64,
    /// The edges of the socket when it was reported last; `None` when it was not.
    reported: Option<u64>,
    /// False after a report of a one-shot interest.
    is_armed: bool,
}

/// What epoll_wait reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// EPOLL*.
    pub events: u32,
    /// What epoll_ctl was given.
    pub data: u64,
}

impl Epoll {
    /// Adds, changes or removes a descriptor: EPOLL_CTL_*.
    pub fn control(&mut self, operation: i32, fd: RawFd, events: u32, data: u64) -> Result<(), Errno> {
        let known = self.interests.iter().position(|interest| interest.fd == fd);
        let interest = Interest { fd, events, data, reported: None, is_armed: true };
        match (operation, known) {
            (libc::EPOLL_CTL_ADD, None) => self.interests.push(interest),
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(Errno::EXIST),
            (libc::EPOLL_CTL_MOD, Some(at)) => self.interests[at] = interest,
            (libc::EPOLL_CTL_DEL, Some(at)) => drop(self.interests.remove(at)),
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None) => return Err(Errno::NOENT),
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// A descriptor was closed.
    pub fn forget(&mut self, fd: RawFd) {
        self.interests.retain(|interest| interest.fd != fd);
    }

    /// What is ready, at most `limit` descriptors.
    pub fn ready(&mut self, world: &mut World, limit: usize) -> Vec<Ready> {
        let mut found = Vec::new();
        for interest in self.interests.iter_mut().filter(|interest| interest.is_armed) {
            if found.len() == limit {
                break;
            }
            let edges = world.socket(interest.fd).map_or(0, |(socket, _)| socket.edges);
            if interest.events & EPOLLET as u32 != 0 && interest.reported == Some(edges) {
                continue;
            }
            let ready = u32::from(readiness(world, interest.fd) as u16) & (interest.events | ALWAYS as u32);
            if ready != 0 {
                interest.reported = Some(edges);
                interest.is_armed = interest.events & EPOLLONESHOT as u32 == 0;
                found.push(Ready { events: ready, data: interest.data });
            }
        }
        found
    }
}
