//! Bring-up: what is negotiated, what is refused, and a device that goes in the middle of it.

use super::*;
use crate::clock::Clock;
use crate::port::Link;

#[test]
fn open_negotiates_what_it_knows_and_nothing_else() {
    let station = Station::new(OFFERED);
    let state = station.device.state.lock().unwrap();
    assert_eq!(state.accepted, OFFERED & !(1 << 34));
    assert_eq!(state.status, 1 | 2 | 4 | 8);
    assert!(state.queues.iter().all(|queue| queue.enabled));
    // An empty table of groups, not every group, not everything: QEMU starts with everything.
    let table = [&[1, 0][..], &[0; 8]].concat();
    assert_eq!(state.commands, [table, vec![0, 1, 0], vec![0, 0, 0]]);
    drop(state);
    assert_eq!((station.port.mac().0, station.port.link().unwrap()), (MAC, Link::Up { speed_mbps: 0 }));
}

/// What a device that a killed process left may still do must not reach the next one's memory.
#[test]
fn device_may_start_dma_only_after_its_reset() {
    let device = Device::new(OFFERED);
    let _port = open(&device).unwrap();
    assert_eq!(device.state.lock().unwrap().mastery, ["off", "reset", "on"]);
}

/// All that a port does with registers, once. Returns how many it read.
fn live(device: &Arc<Device>) -> Result<u32, Error> {
    let mut port = open(device)?;
    let queue = port.open_queue(0)?;
    port.service(0, &mut |_| {})?;
    port.join_multicast(GROUP)?;
    port.close_queue(queue)?;
    port.reset()?;
    Ok(device.reads.load(Ordering::Relaxed))
}

#[test]
fn device_that_goes_at_any_register_read_is_named_and_hangs_nothing() {
    const BOUND: u64 = 5_000_000_000;
    let clock = Clock::calibrated();
    for gone in 0..live(&Device::new(OFFERED)).unwrap() {
        let device = Device::new(OFFERED);
        device.goes_at.store(gone, Ordering::Relaxed);
        let start = clock.now();
        let error = live(&device).err().unwrap_or_else(|| panic!("gone at read {gone} is not noticed")).to_string();
        // A doorbell's place is told as what came of it, and a command as not carried out.
        let told =
            ["all ones", "reads 0xff", "queue_notify_off", "got no answer"].iter().any(|told| error.contains(told));
        assert!(told, "read {gone}: {error}");
        let took = clock.now() - start;
        assert!(took < BOUND, "{took} ns at read {gone}");
    }
}

#[test]
fn open_refuses_devices_that_lack_what_it_needs() {
    for (missing, name) in [(5, "MAC"), (32, "VERSION_1"), (33, "ACCESS_PLATFORM")] {
        let error = open(&Device::new(OFFERED & !(1 << missing))).err().unwrap();
        assert!(matches!(&error, Error::MissingFeature { feature, .. } if *feature == name), "{error}");
    }
    let device = Device::new(OFFERED);
    device.state.lock().unwrap().refuses = true;
    assert!(matches!(open(&device), Err(Error::DeviceFault { what: "device_status", .. })));
    let error = open(&Device::new(OFFERED & !(1 << 15))).err().unwrap();
    assert!(matches!(error, Error::InvalidConfig { what: "max_frame", value: 9000, .. }), "{error}");
    let device = Device::new(OFFERED);
    device.set_config(2, &[0x42]);
    assert!(matches!(open(&device), Err(Error::UnsupportedDevice { device: 0x1042, .. })));
    device.set_config(2, &[0x41]);
    device.state.lock().unwrap().most = 0;
    assert!(matches!(open(&device), Err(Error::DeviceFault { what: "queue_size", .. })));
}
