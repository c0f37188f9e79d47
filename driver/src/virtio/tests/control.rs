//! Link, watchdog, reset and close.

use super::*;
use crate::port::{Link, PortEvent};

#[test]
fn service_tells_link_stuck_queue_and_a_device_in_need_of_reset() {
    let mut station = Station::new(OFFERED);
    let service = |station: &mut Station, now| {
        let mut events = Vec::new();
        station.port.service(now, &mut |event| events.push(event)).map(|()| events)
    };
    assert_eq!(service(&mut station, 0).unwrap(), []);
    station.device.state.lock().unwrap().link = 0;
    assert_eq!(service(&mut station, 1).unwrap(), [PortEvent::Link(Link::Down)]);
    station.send(&bytes(64), TxMeta::default()).unwrap();
    assert_eq!(service(&mut station, 5_000_000_000).unwrap(), [], "it waits for the link");
    station.device.state.lock().unwrap().link = 1;
    let up = PortEvent::Link(Link::Up { speed_mbps: 0 });
    assert_eq!(service(&mut station, 6_000_000_000).unwrap(), [up]);
    assert_eq!(service(&mut station, 8_000_000_000).unwrap(), [PortEvent::TransmitStuck { queue: 0 }]);
    assert_eq!(service(&mut station, 9_000_000_000).unwrap(), [], "said once");
    let heads: Vec<_> = station.device.sent().iter().map(|(head, ..)| (u32::from(*head), 0)).collect();
    station.device.complete(1, &heads);
    // Done by the device, though nobody has taken it back.
    assert_eq!(service(&mut station, 19_000_000_000).unwrap(), []);
    station.device.state.lock().unwrap().status |= 64;
    assert!(matches!(service(&mut station, 0), Err(Error::NeedsReset { .. })));
    station.device.state.lock().unwrap().status = 0xFF;
    assert!(matches!(service(&mut station, 0), Err(Error::Register(crate::mmio::MmioError::Gone { .. }))));
    station.device.state.lock().unwrap().status = 0;
    assert!(matches!(service(&mut station, 0), Err(Error::NeedsReset { .. })));
}

#[test]
fn close_resets_and_drop_leaves_the_device_silent() {
    let mut station = Station::new(OFFERED);
    assert!(station.port.reset().is_err(), "a queue is open");
    assert!(station.port.open_queue(0).is_err(), "it is open already");
    let queue = station.queue.take().unwrap();
    station.port.close_queue(queue).unwrap();
    assert_eq!(station.device.state.lock().unwrap().status, 1 | 2 | 8);
    assert!(station.port.open_queue(1).is_err(), "one is configured");
    station.port.reset().unwrap();
    let device = station.device.clone();
    drop(station);
    assert_eq!(device.state.lock().unwrap().status, 0);
}

#[test]
fn configuration_that_never_rests_is_an_error() {
    let station = Station::new(OFFERED);
    station.device.state.lock().unwrap().restless = true;
    let error = station.port.link().unwrap_err();
    assert!(matches!(error, Error::DeviceFault { what: "config_generation", .. }), "{error}");
}
