//! Bring-up in the specification's order (virtio 1.2, 3.1.1), each step named by its section. Every wait is bounded.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::pci::{Doorbell, Transport};
use super::regs::{self, *};
use super::split::Layout;
use crate::error::Error;
use crate::port::{Link, MacAddress};

/// A bound far above what any device needs for a reset; a software one answers at its next event loop.
const WAIT: Duration = Duration::from_secs(1);
/// Reads of the device configuration that changed under the reader before it gives up.
const CONFIG_ATTEMPTS: u32 = 16;

/// What is accepted of a network device.
const WANTED: Features = Features::all();

/// 2.4 and 4.1.4.3.2: no DMA is in flight afterwards, and none starts.
pub fn reset(transport: &Transport) -> Result<(), Error> {
    transport.common.write(DEVICE_STATUS, 0);
    transport.common.wait(DEVICE_STATUS, "the end of the reset (zero)", WAIT, |status| status == 0)?;
    Ok(())
}

/// 3.1.1, steps 1 to 6: up to the point where queues can be set up.
pub fn negotiate(transport: &Transport) -> Result<Features, Error> {
    reset(transport)?;
    add_status(transport, DeviceStatus::ACKNOWLEDGE);
    add_status(transport, DeviceStatus::DRIVER);
    let features = accepted(offered(transport));
    require(transport, features, Features::VERSION_1, "it is a legacy device; with QEMU, say disable-legacy=on")?;
    require(transport, features, Features::MAC, "it has no station address; with QEMU, say mac=...")?;
    for half in 0..2u32 {
        transport.common.write(DRIVER_FEATURE_SELECT, half);
        transport.common.write(DRIVER_FEATURE, (features.bits() >> (32 * half)) as u32);
    }
    add_status(transport, DeviceStatus::FEATURES_OK);
    let status = transport.common.read(DEVICE_STATUS);
    if status != u32::from((DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK).bits()) {
        return Err(Error::DeviceFault {
            address: transport.address.clone(),
            what: DEVICE_STATUS.name,
            value: status.into(),
            limit: "FEATURES_OK must stay set, for only offered features were accepted",
        });
    }
    Ok(features)
}

fn offered(transport: &Transport) -> Features {
    let half = |select| {
        transport.common.write(DEVICE_FEATURE_SELECT, select);
        u64::from(transport.common.read(DEVICE_FEATURE))
    };
    Features::from_bits_retain(half(0) | half(1) << 32)
}

/// What is wanted of the offer, without what hangs on something that is not there (5.1.3.1).
fn accepted(offered: Features) -> Features {
    let features = offered & WANTED;
    if features.contains(Features::CTRL_VQ) {
        return features;
    }
    features - (Features::CTRL_RX | Features::CTRL_MAC_ADDR)
}

/// Holds `feature` to be among the accepted `features`; what `follows` if it is not is the error's message.
pub fn require(
    transport: &Transport,
    features: Features,
    feature: Features,
    follows: &'static str,
) -> Result<(), Error> {
    if features.contains(feature) {
        return Ok(());
    }
    let name = feature.iter_names().next().map_or("", |(name, _)| name);
    Err(Error::MissingFeature { address: transport.address.clone(), feature: name, follows })
}

fn add_status(transport: &Transport, bit: DeviceStatus) {
    let status = transport.common.read(DEVICE_STATUS);
    transport.common.write(DEVICE_STATUS, status | u32::from(bit.bits()));
}

/// 3.1.1, step 8: the device works from here on.
pub fn start(transport: &Transport) {
    add_status(transport, DeviceStatus::DRIVER_OK);
}

/// 5.1.4: the station address.
pub fn station_address(transport: &Transport) -> Result<MacAddress, Error> {
    let mac = read_config(transport, || {
        std::array::from_fn(|byte| transport.device.read(Register { offset: MAC.offset + byte as u32, ..MAC }) as u8)
    })?;
    let mac = MacAddress(mac);
    if mac.is_group() || mac.0 == [0; 6] {
        let value = mac.0.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let address = transport.address.clone();
        return Err(Error::DeviceFault { address, what: MAC.name, value, limit: "a station address is not a group's" });
    }
    Ok(mac)
}

/// 5.1.4.2: the link. A device that cannot tell has one.
pub fn link(transport: &Transport, features: Features) -> Result<Link, Error> {
    const UNKNOWN: u32 = u32::MAX;
    let (status, speed) = read_config(transport, || {
        let told = |feature, register, otherwise| {
            if features.contains(feature) { transport.device.read(register) } else { otherwise }
        };
        (told(Features::STATUS, STATUS, LINK_UP), told(Features::SPEED_DUPLEX, SPEED, UNKNOWN))
    })?;
    // Two bits of it are defined.
    if status == STATUS.width.mask() {
        return Err(transport.device.gone(STATUS).into());
    }
    if status & LINK_UP == 0 {
        return Ok(Link::Down);
    }
    Ok(Link::Up { speed_mbps: if speed == UNKNOWN { 0 } else { speed } })
}

/// Reads fields of the device configuration that belong together (2.5.3).
fn read_config<T>(transport: &Transport, read: impl Fn() -> T) -> Result<T, Error> {
    let generation = || transport.common.read(CONFIG_GENERATION);
    let mut before = generation();
    for _ in 0..CONFIG_ATTEMPTS {
        let value = read();
        let after = generation();
        if before == after {
            return Ok(value);
        }
        before = after;
    }
    Err(Error::DeviceFault {
        address: transport.address.clone(),
        what: CONFIG_GENERATION.name,
        value: before.into(),
        limit: "it must come to rest",
    })
}

/// 4.1.5.1.3: how long `queue` may be: `wanted`, or as much less as the device allows, a power of two.
pub fn queue_size(transport: &Transport, queue: u16, wanted: u32) -> Result<u16, Error> {
    transport.common.write(QUEUE_SELECT, queue.into());
    let most = transport.common.read(QUEUE_SIZE) as u16;
    let most = most.checked_ilog2().map_or(0, |bits| 1u16 << bits);
    if most < 2 {
        return Err(Error::DeviceFault {
            address: transport.address.clone(),
            what: QUEUE_SIZE.name,
            value: most.into(),
            limit: "a queue that the features promise has at least two descriptors",
        });
    }
    Ok(wanted.min(most.into()) as u16)
}

/// 3.1.1, step 7 and 4.1.5.1.3: tells the device where `queue` lies and turns it on. `vector` is the MSI-X vector that it interrupts by.
pub fn queue(
    transport: &Transport,
    queue: u16,
    layout: Layout,
    iova: u64,
    vector: Option<u16>,
) -> Result<Doorbell, Error> {
    let common = &transport.common;
    common.write(QUEUE_SELECT, queue.into());
    common.write(QUEUE_SIZE, layout.size().into());
    if let Some(vector) = vector {
        common.write(QUEUE_MSIX_VECTOR, vector.into());
        let set = common.read(QUEUE_MSIX_VECTOR);
        if set != u32::from(vector) {
            return Err(Error::DeviceFault {
                address: transport.address.clone(),
                what: QUEUE_MSIX_VECTOR.name,
                value: set.into(),
                limit: "the vector that was written, unless the device has no room for one more",
            });
        }
    }
    let [table, available, used] = layout.places(iova);
    common.write_wide(QUEUE_DESC, table);
    common.write_wide(QUEUE_DRIVER, available);
    common.write_wide(QUEUE_DEVICE, used);
    let doorbell = transport.doorbell(queue, common.read(regs::QUEUE_NOTIFY_OFF) as u16)?;
    common.write(QUEUE_ENABLE, 1);
    Ok(doorbell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_leaves_out_what_hangs_on_an_absent_control_queue() {
        let offered = Features::VERSION_1 | Features::CTRL_RX | Features::CTRL_MAC_ADDR | Features::MAC;
        assert_eq!(accepted(offered), Features::VERSION_1 | Features::MAC);
        let whole = offered | Features::CTRL_VQ;
        // A ring layout this driver does not know is never accepted.
        assert_eq!(accepted(whole | Features::from_bits_retain(1 << 34)), whole);
    }
}
