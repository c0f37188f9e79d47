//! Structures in configuration space, where they are and where they are not.

use proptest::prelude::*;

use super::*;
use crate::virtio::pci::Transport;

#[test]
fn capabilities_that_lie_are_refused() {
    type Lie = (usize, &'static [u8]);
    let lies: [Lie; 6] = [
        // The list runs in a circle.
        (0x51, &[0x40]),
        // The list ends early.
        (0x51, &[0]),
        // The common structure leaves its BAR, by offset, by length, by both.
        (0x50 + 8, &[0xFF, 0xFF, 0xFF, 0xFF]),
        (0x50 + 12, &[1, 0x40, 0, 0]),
        // It is too short, and in a BAR that is not there.
        (0x50 + 12, &[0x10, 0, 0, 0]),
        (0x50 + 4, &[2]),
    ];
    for (at, bytes) in lies {
        let device = Device::new(OFFERED);
        device.set_config(at, bytes);
        assert!(open(&device).is_err(), "{bytes:x?} at {at:#x}");
    }
    // A doorbell beyond the notify structure shows when the queue is opened.
    let device = Device::new(OFFERED);
    device.set_config(0x50 + 3 * 0x18 + 16, &[0xFF, 0xFF, 0xFF, 0xFF]);
    let error = open(&device).unwrap().open_queue(0).err().unwrap();
    assert!(matches!(error, Error::DeviceFault { what: "queue_notify_off", .. }), "{error}");
}

proptest! {
    /// Nothing in configuration space brings the driver down.
    #[test]
    fn hostile_configuration_space_is_survived(config in proptest::collection::vec((0x34usize..256, any::<u8>()), 1..24)) {
        let device = Device::new(OFFERED);
        config.iter().for_each(|(at, byte)| device.set_config(*at, &[*byte]));
        // A structure may still be readable at a wrong place: registers that are not there read all ones.
        let _ = Transport::find(&Slot(device));
    }
}
