//! Neighbours and routes: which host on the link a packet goes to, and that host's station address, found out by ARP.
//!
//! One table serves the stacks of all queues. Reading it takes no lock, for it happens for every packet; writing takes one, for it happens when
//! ARP is sent or received. Read first: RFC 826; RFC 1122, 2.3.2 (how long to believe, how often to ask); RFC 5227 (conflicts). The states carry the
//! names of RFC 4861, 7.3.2.
//!
//! Not here: answering requests, which the host stack does, and VLANs.

mod arp;
mod routes;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barewire_driver::MacAddress;
use barewire_driver::clock::Nanos;

use crate::stack::Config;
use routes::Routes;

pub use arp::FRAME_LEN as ARP_FRAME_LEN;

/// Neighbours that the table holds, a power of two: far more than the link of a trading host has.
const SLOTS: usize = 256;
/// Slots that an address may be in, from its home on.
const WINDOW: usize = 16;

const SECOND: Nanos = 1_000_000_000;
/// How long an answer is believed (RFC 1122, 2.3.2.1: of the order of a minute).
const LIFETIME: Nanos = 60 * SECOND;
/// How long before its end the answer of a pinned neighbour is asked for again: time for four requests.
const REFRESH_BEFORE: Nanos = 15 * SECOND;
/// From the first request to the second; each wait after it is twice as long, up to [`LONGEST_WAIT`]. RFC 1122, 2.3.2.1 allows a request a second.
const FIRST_WAIT: Nanos = SECOND;
/// The longest wait between requests.
const LONGEST_WAIT: Nanos = 8 * SECOND;
/// Unanswered requests after which a neighbour that is not pinned is given up, until somebody wants it again.
const REQUESTS: u32 = 5;
/// No time: nothing is due.
const NEVER: Nanos = Nanos::MAX;

/// Why a neighbour or a route was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeighbourError {
    /// The address is no other host's.
    #[error("{0} is no other host's address; give one of a single host that is not this one")]
    NotAHost(Ipv4Addr),
    /// The station address is no single station's.
    #[error("{0} is no single station's address")]
    NotAStation(MacAddress),
    /// Too many neighbours are pinned or known.
    #[error("no room for neighbour {0}; unpin others, or wait a minute until some are forgotten")]
    Full(Ipv4Addr),
    /// A prefix is longer than an address.
    #[error("prefix length {0} is none; 0 to 32 are")]
    Prefix(u8),
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NeighbourStats {
    /// ARP requests sent.
    pub requests: u64,
    /// ARP packets that told of a neighbour in the table.
    pub updates: u64,
    /// ARP packets by which another station claims our address (RFC 5227, 2.4).
    pub conflicts: u64,
    /// ARP packets that make no sense.
    pub malformed: u64,
    /// Neighbours wanted that found no room.
    pub refused: u64,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    updates: AtomicU64,
    conflicts: AtomicU64,
    malformed: AtomicU64,
    refused: AtomicU64,
}

/// What readers see of a neighbour. A slot is used for one address after the other; the generation in both words keeps an answer from being taken for
/// that of the address before.
#[derive(Default)]
struct Slot {
    /// The address in the low 32 bits, zero for none, and the generation above.
    key: AtomicU64,
    /// The station address in the low 48 bits, zero while it is not known, and the generation above.
    answer: AtomicU64,
}

impl Slot {
    fn generation(&self) -> u64 {
        self.key.load(Ordering::Relaxed) >> 32
    }

    /// Gives the slot to `ip`, or to nobody for 0.0.0.0. What was known is forgotten first.
    fn assign(&self, ip: Ipv4Addr) {
        let generation = self.generation().wrapping_add(1) & 0xFFFF;
        self.answer.store(generation << 48, Ordering::Release);
        self.key.store(generation << 32 | u64::from(ip.to_bits()), Ordering::Release);
    }

    /// Sets the station address, or that it is not known.
    fn set(&self, mac: Option<MacAddress>) {
        let bits = mac.map_or(0, |mac| mac.0.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
        self.answer.store(self.generation() << 48 | bits, Ordering::Release);
    }

    /// The station address that goes with `key`, which was read here.
    #[inline]
    fn mac(&self, key: u64) -> Option<MacAddress> {
        let answer = self.answer.load(Ordering::Acquire);
        let [_, _, mac @ ..] = answer.to_be_bytes();
        (answer >> 48 == key >> 32 && mac != [0; 6]).then_some(MacAddress(mac))
    }
}

/// The slots that `ip` may be in.
#[inline]
fn window(ip: Ipv4Addr) -> impl Iterator<Item = usize> {
    const GOLDEN: u32 = 0x9E37_79B9;
    let home = (ip.to_bits().wrapping_mul(GOLDEN) >> (u32::BITS - SLOTS.ilog2())) as usize;
    (home..home.wrapping_add(WINDOW)).map(|at| at & (SLOTS - 1))
}

/// | state | event | next |
/// |---|---|---|
/// | Free | wanted or pinned | Incomplete: a request at once |
/// | Free | learnt; set by hand | Reachable; Static |
/// | Incomplete | its wait is over | a request, and a longer wait; Free after [`REQUESTS`] where it is not pinned |
/// | Incomplete, Reachable, Probe | ARP from it, or learnt | Reachable |
/// | Reachable | pinned, and its end is near | Probe: a request to it alone |
/// | Probe | its wait is over | a request to all, and a longer wait |
/// | Reachable, Probe | its end | Incomplete where it is pinned, else Free |
/// | any | set by hand | Static |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody's.
    Free,
    /// Set by hand; ARP changes nothing.
    Static,
    /// Not known, and asked for so often.
    Incomplete { asked: u32 },
    /// Known until then.
    Reachable { until: Nanos },
    /// Known until then, and asked for again so often.
    Probe { until: Nanos, asked: u32 },
}

/// What the writers know of a neighbour.
#[derive(Debug, Clone, Copy)]
struct Entry {
    ip: Ipv4Addr,
    state: State,
    pins: u32,
    /// When something is to be done, or [`NEVER`].
    due: Nanos,
    /// When the wait after the last request is over: none is sent before, whatever happens.
    quiet: Nanos,
}

const FREE: Entry = Entry { ip: Ipv4Addr::UNSPECIFIED, state: State::Free, pins: 0, due: NEVER, quiet: 0 };

impl Entry {
    /// Known from `now` on.
    fn confirm(&mut self, now: Nanos) {
        self.state = State::Reachable { until: now.saturating_add(LIFETIME) };
        self.schedule();
    }

    /// Sets when a state's time is over, after its beginning or a change of the pins.
    fn schedule(&mut self) {
        self.due = match self.state {
            State::Free | State::Static => NEVER,
            State::Reachable { until } if self.pins > 0 => until.saturating_sub(REFRESH_BEFORE),
            State::Reachable { until } => until,
            State::Incomplete { .. } | State::Probe { .. } => self.due,
        };
    }

    /// A request went out.
    fn asked(&mut self, now: Nanos) {
        let (asked, until) = match &mut self.state {
            State::Incomplete { asked } => (asked, NEVER),
            State::Probe { until, asked } => (asked, *until),
            State::Free | State::Static | State::Reachable { .. } => return,
        };
        self.quiet = now.saturating_add((FIRST_WAIT << (*asked).min(16)).min(LONGEST_WAIT));
        self.due = self.quiet.min(until);
        *asked = asked.saturating_add(1);
    }
}

/// Neighbours and routes of one port, shared by the stacks on its queues. Every method but [`Neighbours::add_route`] may be called from any thread.
pub struct Neighbours {
    mac: MacAddress,
    ip: Ipv4Addr,
    prefix_len: u8,
    routes: Routes,
    slots: Box<[Slot]>,
    /// One for each slot.
    entries: Mutex<Box<[Entry]>>,
    /// When the first entry is due.
    deadline: AtomicU64,
    counts: Counts,
}

impl Neighbours {
    /// An empty table for a stack with this configuration, whose network is on the link.
    pub fn new(config: &Config) -> Self {
        let Config { mac, ip, prefix_len, gateway, .. } = *config;
        let mut routes = Routes::default();
        routes.add(ip, prefix_len, None);
        if let Some(gateway) = gateway {
            routes.add(Ipv4Addr::UNSPECIFIED, 0, Some(gateway));
        }
        Self {
            mac,
            ip,
            prefix_len,
            routes,
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            entries: Mutex::new(vec![FREE; SLOTS].into()),
            deadline: AtomicU64::new(NEVER),
            counts: Counts::default(),
        }
    }

    /// Sends packets to the network of the `prefix_len` leading bits of `network` by `gateway`. A longer prefix goes before a shorter one.
    ///
    /// # Errors
    /// When the prefix is too long, or the gateway no other host.
    pub fn add_route(&mut self, network: Ipv4Addr, prefix_len: u8, gateway: Ipv4Addr) -> Result<(), NeighbourError> {
        if prefix_len > 32 {
            return Err(NeighbourError::Prefix(prefix_len));
        }
        self.check_host(gateway)?;
        self.routes.add(network, prefix_len, Some(gateway));
        Ok(())
    }

    /// The host on the link that a packet to `ip` is handed to. Without any route that is `ip` itself: ARP finds out whether somebody answers.
    #[inline]
    pub fn next_hop(&self, ip: Ipv4Addr) -> Ipv4Addr {
        self.routes.next_hop(ip)
    }

    /// The station address of host `ip` on the link, where it is known. Where it is not, [`Neighbours::want`] it.
    #[inline]
    pub fn lookup(&self, ip: Ipv4Addr) -> Option<MacAddress> {
        for at in window(ip) {
            let slot = self.slots.get(at)?;
            let key = slot.key.load(Ordering::Acquire);
            if key as u32 == ip.to_bits() {
                return slot.mac(key);
            }
        }
        None
    }

    /// Has host `ip` on the link asked for, in the next [`Neighbours::poll`] and then at longer and longer intervals, some times. Does nothing
    /// while it is known or being asked for, when it is no host, or when there is no room: want it again later.
    pub fn want(&self, ip: Ipv4Addr) {
        if self.check_host(ip).is_ok() && self.table().find_or_ask(ip).is_none() {
            count(&self.counts.refused);
        }
    }

    /// Keeps host `ip` on the link known: asks for it until it answers, and again before each answer is too old. Pins are counted.
    ///
    /// # Errors
    /// When it is no other host, or there is no room.
    pub fn pin(&self, ip: Ipv4Addr) -> Result<(), NeighbourError> {
        self.check_host(ip)?;
        let mut table = self.table();
        let at = table.find_or_ask(ip).ok_or(NeighbourError::Full(ip))?;
        table.edit(at, |entry| {
            entry.pins = entry.pins.saturating_add(1);
            entry.schedule();
        });
        Ok(())
    }

    /// Undoes one [`Neighbours::pin`].
    pub fn unpin(&self, ip: Ipv4Addr) {
        let mut table = self.table();
        if let Some(at) = table.find(ip) {
            table.edit(at, |entry| {
                entry.pins = entry.pins.saturating_sub(1);
                entry.schedule();
            });
        }
    }

    /// Sets a neighbour by hand, for good: ARP does not change it.
    ///
    /// # Errors
    /// When it is no other host or no single station, or there is no room.
    pub fn set_static(&self, ip: Ipv4Addr, mac: MacAddress) -> Result<(), NeighbourError> {
        self.put(ip, mac, None)
    }

    /// Takes over what somebody found out in another way than by ARP, such as by the handshake of a connection.
    ///
    /// # Errors
    /// When it is no other host or no single station, or there is no room.
    pub fn learn(&self, now: Nanos, ip: Ipv4Addr, mac: MacAddress) -> Result<(), NeighbourError> {
        self.put(ip, mac, Some(now))
    }

    /// Sets a neighbour, known from `now` on, or by hand.
    fn put(&self, ip: Ipv4Addr, mac: MacAddress, now: Option<Nanos>) -> Result<(), NeighbourError> {
        self.check_host(ip)?;
        if !arp::is_station(mac) {
            return Err(NeighbourError::NotAStation(mac));
        }
        let mut table = self.table();
        let at = table.find_or_ask(ip).ok_or(NeighbourError::Full(ip))?;
        match now {
            Some(_) if table.state(at) == State::Static => return Ok(()),
            Some(now) => table.edit(at, |entry| entry.confirm(now)),
            None => table.edit(at, |entry| {
                entry.state = State::Static;
                entry.schedule();
            }),
        }
        table.publish(at, mac);
        Ok(())
    }

    /// Takes an ARP packet from the wire, an untagged frame. A neighbour that is in the table gets the station address in it, whatever the
    /// packet is for (RFC 826, "Packet Reception"; so a gratuitous one counts as well). Returns the neighbour if its address was not known before.
    ///
    /// RFC 826 has a host add the sender of a request for its own address. This table does not: strangers could fill it. Who is answered is wanted.
    pub fn receive_arp(&self, now: Nanos, frame: &[u8]) -> Option<Ipv4Addr> {
        let Some(packet) = arp::parse(frame) else {
            count(&self.counts.malformed);
            return None;
        };
        let is_for_us = packet.to == self.mac || packet.to.is_group();
        // Our own frames can come back, by a switch or a port that receives everything.
        if !is_for_us || packet.sender == self.mac {
            return None;
        }
        if packet.sender_ip == self.ip {
            count(&self.counts.conflicts);
            return None;
        }
        let mut table = self.table();
        let at = table.find(packet.sender_ip)?;
        let state = table.state(at);
        if state == State::Static {
            return None;
        }
        count(&self.counts.updates);
        table.edit(at, |entry| entry.confirm(now));
        table.publish(at, packet.sender);
        matches!(state, State::Incomplete { .. }).then_some(packet.sender_ip)
    }

    /// Does what is due: hands the ARP requests to be sent to `send`, which says whether it could. One that it could not comes again in the next
    /// poll. Returns how many were sent.
    #[inline]
    pub fn poll(&self, now: Nanos, mut send: impl FnMut(&[u8; ARP_FRAME_LEN]) -> bool) -> u32 {
        if self.deadline.load(Ordering::Relaxed) > now { 0 } else { self.run(now, &mut send) }
    }

    #[cold]
    fn run(&self, now: Nanos, send: &mut dyn FnMut(&[u8; ARP_FRAME_LEN]) -> bool) -> u32 {
        let mut sent = 0;
        for _ in 0..SLOTS {
            // Sent without the lock: what `send` does is not known here.
            let Some((at, ip, to)) = self.table().next_request(now) else { break };
            if !send(&arp::request(to, self.mac, self.ip, ip)) {
                break;
            }
            self.table().edit(at, |entry| {
                // Another thread may have had an answer between.
                if entry.ip == ip && entry.due <= now {
                    entry.asked(now);
                }
            });
            count(&self.counts.requests);
            sent += 1;
        }
        sent
    }

    /// When [`Neighbours::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        Some(self.deadline.load(Ordering::Relaxed)).filter(|deadline| *deadline != NEVER)
    }

    /// Counters.
    pub fn stats(&self) -> NeighbourStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { requests, updates, conflicts, malformed, refused } = &self.counts;
        NeighbourStats {
            requests: read(requests),
            updates: read(updates),
            conflicts: read(conflicts),
            malformed: read(malformed),
            refused: read(refused),
        }
    }

    /// Whether `ip` can be another host's.
    fn check_host(&self, ip: Ipv4Addr) -> Result<(), NeighbourError> {
        let is_group = ip.is_multicast() || ip.is_broadcast() || routes::is_reserved(ip, self.ip, self.prefix_len);
        let is_here = ip.is_unspecified() || ip.is_loopback() || ip == self.ip;
        if is_group || is_here { Err(NeighbourError::NotAHost(ip)) } else { Ok(()) }
    }

    fn table(&self) -> Table<'_> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Table { entries, slots: &self.slots, deadline: &self.deadline }
    }
}

fn count(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// The table, for one writer.
struct Table<'a> {
    entries: MutexGuard<'a, Box<[Entry]>>,
    slots: &'a [Slot],
    deadline: &'a AtomicU64,
}

impl Table<'_> {
    fn find(&self, ip: Ipv4Addr) -> Option<usize> {
        window(ip).find(|at| self.entries.get(*at).is_some_and(|entry| entry.state != State::Free && entry.ip == ip))
    }

    fn state(&self, at: usize) -> State {
        self.entries.get(at).map_or(State::Free, |entry| entry.state)
    }

    fn find_or_ask(&mut self, ip: Ipv4Addr) -> Option<usize> {
        self.find(ip).or_else(|| self.ask(ip))
    }

    /// Begins to ask for `ip`. Takes a free slot, or that of a neighbour that has not answered for the longest time; never one that is
    /// known or pinned.
    fn ask(&mut self, ip: Ipv4Addr) -> Option<usize> {
        let unanswered = |at: &usize| match self.entries.get(*at) {
            Some(Entry { state: State::Free, .. }) => u32::MAX,
            Some(Entry { state: State::Incomplete { asked }, pins: 0, .. }) => *asked,
            _ => 0,
        };
        let at = window(ip).min_by_key(|at| Reverse(unanswered(at))).filter(|at| unanswered(at) > 0)?;
        self.slots.get(at)?.assign(ip);
        self.edit(at, |entry| *entry = Entry { ip, state: State::Incomplete { asked: 0 }, due: 0, ..FREE });
        Some(at)
    }

    fn edit(&mut self, at: usize, edit: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(at) {
            edit(entry);
        }
    }

    /// Lets readers see the station address.
    fn publish(&self, at: usize, mac: MacAddress) {
        if let Some(slot) = self.slots.get(at) {
            slot.set(Some(mac));
        }
    }

    /// Ends what has come to its end; the next request that is due: of which entry, for whom, and to whom.
    fn next_request(&mut self, now: Nanos) -> Option<(usize, Ipv4Addr, MacAddress)> {
        let Self { entries, slots, .. } = self;
        for (at, (entry, slot)) in entries.iter_mut().zip(*slots).enumerate() {
            if entry.due <= now
                && let Some(to) = advance(entry, slot, now)
            {
                return Some((at, entry.ip, to));
            }
        }
        None
    }
}

impl Drop for Table<'_> {
    /// The deadline is true again before the next writer comes.
    fn drop(&mut self) {
        let first = self.entries.iter().map(|entry| entry.due).min();
        self.deadline.store(first.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

/// Takes an entry that is due to its next state. Returns whom to send a request to, if one is to be sent.
fn advance(entry: &mut Entry, slot: &Slot, now: Nanos) -> Option<MacAddress> {
    let is_pinned = entry.pins > 0;
    entry.state = match entry.state {
        State::Reachable { until } | State::Probe { until, .. } if until <= now => {
            slot.set(None);
            if is_pinned { State::Incomplete { asked: 0 } } else { State::Free }
        }
        State::Reachable { until } if is_pinned => State::Probe { until, asked: 0 },
        State::Probe { until, .. } if !is_pinned => State::Reachable { until },
        State::Incomplete { asked } if asked >= REQUESTS && !is_pinned => State::Free,
        state => state,
    };
    match entry.state {
        State::Free => {
            slot.assign(Ipv4Addr::UNSPECIFIED);
            *entry = FREE;
            None
        }
        State::Static | State::Reachable { .. } => {
            entry.schedule();
            None
        }
        State::Incomplete { .. } if now < entry.quiet => {
            entry.due = entry.quiet;
            None
        }
        State::Probe { until, .. } if now < entry.quiet => {
            entry.due = entry.quiet.min(until);
            None
        }
        // A neighbour that is there answers; the second request also finds one that has got another station address (RFC 1122, 2.3.2.1).
        State::Probe { asked: 0, .. } => slot.mac(slot.key.load(Ordering::Relaxed)).or(Some(MacAddress::BROADCAST)),
        State::Probe { .. } | State::Incomplete { .. } => Some(MacAddress::BROADCAST),
    }
}
