//! Group membership, host side: IGMPv2 (RFC 2236).

use std::net::Ipv4Addr;

use barewire_driver::MacAddress;
use barewire_driver::clock::Nanos;

use crate::checksum::sum;

/// All hosts: where queries go.
pub const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// All routers: where leaves go (RFC 2236, 9).
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);

const QUERY: u8 = 0x11;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const LEAVE: u8 = 0x17;

const SECOND: Nanos = 1_000_000_000;
/// RFC 2236, 8.10.
const UNSOLICITED_INTERVAL: Nanos = 10 * SECOND;
/// A query with a response time of zero is version 1's and means ten seconds (RFC 2236, 4).
const V1_RESPONSE: Nanos = 10 * SECOND;

/// Ethernet, IPv4 with router alert, IGMP.
pub const FRAME_LEN: usize = 14 + 24 + 8;

/// The Ethernet address of a group (RFC 1112, 6.4).
pub fn multicast_mac(group: Ipv4Addr) -> MacAddress {
    let [_, b, c, d] = group.octets();
    MacAddress([0x01, 0x00, 0x5E, b & 0x7F, c, d])
}

/// A message that is to be sent, and in which VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    kind: u8,
    group: Ipv4Addr,
    /// The VLAN.
    pub vlan: Option<u16>,
}

impl Message {
    /// Writes the frame (RFC 2236, 2: time to live 1, router alert).
    pub fn write(&self, mac: MacAddress, ip: Ipv4Addr) -> [u8; FRAME_LEN] {
        let to = if self.kind == LEAVE { ALL_ROUTERS } else { self.group };
        let mut frame = [0; FRAME_LEN];
        frame[0..6].copy_from_slice(&multicast_mac(to).0);
        frame[6..12].copy_from_slice(&mac.0);
        frame[12..18].copy_from_slice(&[0x08, 0x00, 0x46, 0xC0, 0, 32]);
        frame[22..24].copy_from_slice(&[1, crate::wire::IGMP]);
        frame[26..30].copy_from_slice(&ip.octets());
        frame[30..34].copy_from_slice(&to.octets());
        frame[34..38].copy_from_slice(&[0x94, 0x04, 0, 0]);
        let header = !sum(&frame[14..38], 0);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[38] = self.kind;
        frame[42..46].copy_from_slice(&self.group.octets());
        let message = !sum(&frame[38..46], 0);
        frame[40..42].copy_from_slice(&message.to_be_bytes());
        frame
    }
}

/// A group of which this host is a member.
#[derive(Debug, Clone, Copy)]
struct Membership {
    group: Ipv4Addr,
    vlan: Option<u16>,
    receivers: u32,
    /// When the next report is due.
    due: Option<Nanos>,
    /// Unsolicited reports still to send after that.
    repeats: u8,
}

/// The memberships of one stack.
#[derive(Debug)]
pub struct Memberships {
    groups: Vec<Membership>,
    random: u64,
}

impl Memberships {
    /// No memberships; `seed` spreads the delays of reports.
    pub fn new(seed: u64) -> Self {
        Self { groups: Vec::new(), random: seed | 1 }
    }

    /// One more receiver of `group`; the first one makes the host a member, and it says so now and once more.
    pub fn join(&mut self, now: Nanos, group: Ipv4Addr, vlan: Option<u16>) {
        match self.find(group, vlan) {
            Some(known) => known.receivers += 1,
            None => self.groups.push(Membership { group, vlan, receivers: 1, due: Some(now), repeats: 1 }),
        }
    }

    /// One receiver less; the last one makes the host leave.
    pub fn leave(&mut self, group: Ipv4Addr, vlan: Option<u16>) -> Option<Message> {
        let known = self.find(group, vlan)?;
        known.receivers -= 1;
        if known.receivers > 0 {
            return None;
        }
        self.groups.retain(|known| known.group != group || known.vlan != vlan);
        Some(Message { kind: LEAVE, group, vlan })
    }

    fn find(&mut self, group: Ipv4Addr, vlan: Option<u16>) -> Option<&mut Membership> {
        self.groups.iter_mut().find(|known| known.group == group && known.vlan == vlan)
    }

    /// Takes a message from the wire; `false` when it makes no sense.
    pub fn receive(&mut self, now: Nanos, vlan: Option<u16>, message: &[u8]) -> bool {
        let Some(&[kind, tenths, _, _, a, b, c, d]) = message.first_chunk::<8>() else { return false };
        if sum(message, 0) != 0xFFFF {
            return false;
        }
        let group = Ipv4Addr::new(a, b, c, d);
        match kind {
            QUERY => self.query(now, vlan, group, Nanos::from(tenths) * SECOND / 10),
            // Somebody else has reported: no need to (RFC 2236, 3).
            REPORT_V1 | REPORT_V2 => {
                if let Some(known) = self.find(group, vlan) {
                    known.due = None;
                }
            }
            LEAVE => {}
            _ => return false,
        }
        true
    }

    /// A query starts a random delay for every group it asks about; a shorter one that runs already stays.
    fn query(&mut self, now: Nanos, vlan: Option<u16>, group: Ipv4Addr, response: Nanos) {
        let response = if response == 0 { V1_RESPONSE } else { response };
        for index in 0..self.groups.len() {
            let delay = self.draw() % response;
            let known = &mut self.groups[index];
            let asked = known.vlan == vlan && (group.is_unspecified() || group == known.group);
            if asked && known.due.is_none_or(|due| due > now.saturating_add(response)) {
                known.due = Some(now.saturating_add(delay));
            }
        }
    }

    /// xorshift64: spreading reports needs no better.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A report that is due, if any.
    pub fn poll(&mut self, now: Nanos) -> Option<Message> {
        let known = self.groups.iter_mut().find(|known| known.due.is_some_and(|due| due <= now))?;
        known.due = (known.repeats > 0).then(|| now.saturating_add(UNSOLICITED_INTERVAL));
        known.repeats = known.repeats.saturating_sub(1);
        Some(Message { kind: REPORT_V2, group: known.group, vlan: known.vlan })
    }

    /// When the next report is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.groups.iter().filter_map(|known| known.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 129, 2, 3);

    fn query(tenths: u8) -> [u8; 8] {
        let mut message = [QUERY, tenths, 0, 0, 0, 0, 0, 0];
        let sum = !sum(&message, 0);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    #[test]
    fn join_reports_twice_and_last_leave_leaves() {
        let mut host = Memberships::new(1);
        host.join(5, GROUP, None);
        host.join(5, GROUP, None);
        let report = host.poll(5).unwrap();
        assert_eq!((report.kind, report.group), (REPORT_V2, GROUP));
        assert_eq!((host.poll(6), host.deadline()), (None, Some(5 + UNSOLICITED_INTERVAL)));
        assert!(host.poll(5 + UNSOLICITED_INTERVAL).is_some());
        assert_eq!(host.deadline(), None);
        assert_eq!(host.leave(GROUP, None), None);
        assert_eq!(host.leave(GROUP, None).map(|message| message.kind), Some(LEAVE));
    }

    #[test]
    fn query_is_answered_within_its_time_unless_another_host_was_first() {
        let mut host = Memberships::new(7);
        host.join(0, GROUP, None);
        while host.poll(u64::MAX / 2).is_some() {}
        assert!(host.receive(0, None, &query(100)));
        assert!(host.deadline().unwrap() < 10 * SECOND);
        let mut report =
            Message { kind: REPORT_V2, group: GROUP, vlan: None }.write(MacAddress([2; 6]), Ipv4Addr::LOCALHOST);
        assert!(host.receive(0, None, &report[38..]));
        assert_eq!(host.deadline(), None);
        report[38] ^= 1;
        assert!(!host.receive(0, None, &report[38..]));
        assert!(!host.receive(0, None, &report[40..]));
    }

    #[test]
    fn frame_carries_router_alert_and_right_sums() {
        let frame =
            Message { kind: REPORT_V2, group: GROUP, vlan: None }.write(MacAddress([2; 6]), Ipv4Addr::LOCALHOST);
        assert_eq!(frame[..6], [0x01, 0x00, 0x5E, 0x01, 0x02, 0x03]);
        assert_eq!((sum(&frame[14..38], 0), sum(&frame[38..], 0)), (0xFFFF, 0xFFFF));
        assert_eq!((frame[14], frame[22], &frame[34..36]), (0x46, 1, &[0x94, 0x04][..]));
    }
}
