//! Captured frames through the whole way of market data: wire, device model, driver, multicast lane, feed.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::ixgbe::{Config, Ixgbe};
use barewire_driver::{MAX_FRAME_LEN, MacAddress, Port};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, Mac, Medium, PortId, pcap};
use barewire_netstack::wire::{Seen, see};
use barewire_netstack::{Event, Stack};

use crate::decode::{Error, Lines, each};
use crate::feed::moldudp64::Receiver;

/// What a capture's frames are sent to: VLAN, group and port.
type Group = (Option<u16>, SocketAddrV4);

/// Replays captures and prints the messages that arrive, as `decode` prints them.
///
/// # Errors
/// As [`each`]; at once when port or model fail.
pub fn run(paths: &[PathBuf], json: bool, out: &mut impl Write) -> Result<(), Error> {
    each(paths, json, out, replay)
}

/// One capture, on a port and a receiver of its own.
fn replay<W: Write>(path: &Path, lines: &mut Lines<'_, W>) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Run(error.to_string());
    let (groups, cut) = groups(path);
    let clock = Clock::Simulated(SimulatedClock::default());
    let model = Ixgbe82599::new(MacAddress([0x02, 0, 0, 0, 0, 1]), clock.clone());
    let source: Arc<dyn Mac> = Arc::new(Source);
    let stations = [Arc::clone(&source), model.clone()];
    let wire =
        Wire::join(clock, &stations, WireConfig::perfect(Delivery::Immediate)).map_err(|error| failed(&error))?;
    model.connect(wire.clone(), PortId(1));
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(model));
    let config = Config { max_frame: MAX_FRAME_LEN as u16, ..Config::default() };
    let mut port = Ixgbe::open(bus, config).map_err(|error| failed(&error))?;
    let queue = port.open_queue(0).map_err(|error| failed(&error))?;
    let identity = barewire_netstack::Config::new(port.mac(), Ipv4Addr::new(10, 0, 0, 2), 24, 0);
    let mut stack = Stack::new(queue, identity);
    let cx = stack.context(0);
    for (vlan, group) in groups {
        cx.join(*group.ip(), group.port(), vlan).map_err(|error| failed(&error))?;
    }
    for mac in cx.group_macs() {
        port.join_multicast(mac).map_err(|error| failed(&error))?;
    }
    let mut receiver = Receiver::joining();
    let mut fault = None;
    // Frames that were cut by the capture end where the first pass met them: they are in its error.
    let _ = pcap::read(path, |frame| {
        lines.summary.frames += 1;
        wire.transmit(PortId(0), &padded(frame));
        let polled = stack.poll(0, |_, event| {
            if let Event::Multicast { datagram, .. } = event {
                receiver.receive(datagram.payload, |_, message| lines.itch(message));
            }
        });
        fault = fault.take().or(polled.err());
    });
    if let Some(fault) = fault {
        return Err(failed(&fault));
    }
    let (feed, drops) = (receiver.stats(), stack.stats().drops);
    let dropped = drops.truncated + drops.bad_checksum + drops.no_receiver + drops.fragment + drops.unknown_protocol;
    lines.summary.errors += feed.truncated + feed.bad_blocks + feed.bad_sequence + feed.other_session + dropped;
    if feed.gaps > 0 {
        log::info!("{}: {} gaps, {} messages missing", path.display(), feed.gaps, feed.missing);
    }
    port.close_queue(stack.into_queues()).map_err(|error| failed(&error))?;
    cut.map_or(Ok(()), |error| Err(error.into()))
}

/// A first pass: where the capture's datagrams go, and what is wrong with the file.
fn groups(path: &Path) -> (Vec<Group>, Option<pcap::PcapError>) {
    let mut groups = Vec::new();
    let read = pcap::read(path, |frame| {
        if let Seen::Group { udp, vlan } = see(frame) {
            let group = (vlan.map(|tag| tag & 0xFFF), udp.destination);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    });
    (groups, read.err())
}

/// Captures hold short frames without their padding; a wire does not.
fn padded(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes.resize(frame.len().max(60), 0);
    bytes
}

/// The far end of the wire: it only sends.
struct Source;

impl Mac for Source {
    fn receive(&self, _: &[u8], _: barewire_models::Fcs) {}
    fn set_carrier(&self, _: bool) {}
}
