//! PCI network devices as Linux shows them under `/sys`: discovery, and which driver has a device.
//!
//! Every path hangs below a root, so that all of it runs on a made-up tree as well.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kernel driver that hands devices to user space.
pub const VFIO_DRIVER: &str = "vfio-pci";
/// The base class of network controllers (PCI Code and ID Assignment, 1.3).
const CLASS_NETWORK: u32 = 0x02;
/// The base class of bridges, which may stay in a group with their own driver.
const CLASS_BRIDGE: u32 = 0x06;
/// Drivers of other devices that leave a group usable: they start no DMA of their own.
const HARMLESS: [&str; 3] = [VFIO_DRIVER, "pci-stub", "pcieport"];

/// Why a device cannot be found, bound or unbound. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysfsError {
    /// Not the form of a PCI address.
    #[error("{0:?} is no PCI address; write domain:bus:device.function, such as 0000:03:00.0")]
    BadAddress(String),
    /// Nothing is there.
    #[error("no PCI device at {0}; `barewire devices` lists the network devices there are")]
    NoDevice(PciAddress),
    /// It is something else.
    #[error("{0} is no network device; `barewire devices` lists those there are")]
    NotNetwork(PciAddress),
    /// Nothing would hold the device's DMA within bounds.
    #[error(
        "{0} is in no IOMMU group; switch the IOMMU on in the firmware and boot Linux with intel_iommu=on (AMD needs no option)"
    )]
    NoIommu(PciAddress),
    /// Devices of a group cannot be told apart by the IOMMU, so all must be out of the kernel's hands.
    #[error(
        "{address}: IOMMU group {group} is not viable: {} too; take it away: echo {first} > /sys/bus/pci/devices/{first}/driver/unbind",
        others.join(" and ")
    )]
    NotViable {
        /// The device that was asked for.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// The first of the other devices.
        first: PciAddress,
        /// Who has which of the other devices.
        others: Vec<String>,
    },
    /// The kernel module is missing.
    #[error("driver vfio-pci is not loaded; run `modprobe vfio-pci`")]
    NoVfio,
    /// Another driver has the device, or none.
    #[error("{address} {}; run `barewire bind {address}`", held(driver))]
    NotBound {
        /// The device.
        address: PciAddress,
        /// Who has it.
        driver: Option<String>,
    },
    /// There is nothing to do.
    #[error("{0} is bound to vfio-pci already; use it as --port vfio:{0}, or give it back with `barewire unbind {0}`")]
    AlreadyBound(PciAddress),
    /// Taking the interface away may cut the person off who asks for it.
    #[error("{address} is {interface}, which carries the default route; choose another device, or insist with --force")]
    DefaultRoute {
        /// The device.
        address: PciAddress,
        /// Its interface.
        interface: String,
    },
    /// The kernel did not do as told.
    #[error("{address}: {driver} did not take the device, which is as before; `dmesg | tail` says why")]
    Refused {
        /// The device.
        address: PciAddress,
        /// The driver that was to take it.
        driver: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {source}{}", path.display(), if source.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" })]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

fn held(driver: &Option<String>) -> String {
    driver.as_ref().map_or("has no driver".to_owned(), |driver| format!("is bound to driver {driver}"))
}

/// Where a function is on the PCI buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, five bits.
    pub device: u8,
    /// Function, three bits.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = SysfsError;

    /// Reads `0000:03:00.0`, or `03:00.0` in domain 0.
    fn from_str(text: &str) -> Result<Self, SysfsError> {
        let parse = || {
            let hex = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
            };
            let (slot, function) = text.rsplit_once('.')?;
            let (bus, device) = slot.rsplit_once(':')?;
            let (domain, bus) = bus.rsplit_once(':').unwrap_or(("0", bus));
            Some(Self {
                domain: hex(domain)?,
                bus: hex(bus)?.try_into().ok()?,
                device: hex(device).filter(|device| *device < 32)? as u8,
                function: hex(function).filter(|function| *function < 8)? as u8,
            })
        };
        parse().ok_or_else(|| SysfsError::BadAddress(text.to_owned()))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// What the kernel knows of the link of a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Carrier.
    pub up: bool,
    /// Megabits a second, where the driver tells.
    pub speed_mbps: Option<u32>,
}

/// A PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code: base class, subclass, programming interface.
    pub class: u32,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Its network interfaces.
    pub interfaces: Vec<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// The NUMA node that it hangs on, where there are several.
    pub numa_node: Option<u32>,
    /// The link, while a kernel driver has the device and its interface is up.
    pub link: Option<LinkState>,
}

impl PciDevice {
    /// Whether it is a network controller.
    pub fn is_network(&self) -> bool {
        self.class >> 16 == CLASS_NETWORK
    }
}

/// `/sys`, `/proc` and `/dev` below one root.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    /// This machine's own.
    fn default() -> Self {
        Self::new("/")
    }
}

impl Sysfs {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn bus(&self) -> PathBuf {
        self.root.join("sys/bus/pci")
    }

    /// The folder of a device.
    fn folder(&self, address: PciAddress) -> PathBuf {
        self.bus().join("devices").join(address.to_string())
    }

    /// The file of an IOMMU group.
    pub fn group_file(&self, group: u32) -> PathBuf {
        self.root.join(format!("dev/vfio/{group}"))
    }

    /// The file that containers are opened from.
    pub(super) fn container_file(&self) -> PathBuf {
        self.root.join("dev/vfio/vfio")
    }

    /// Every network controller on the PCI buses, in the order of addresses. A machine without PCI has none.
    pub fn network_devices(&self) -> Vec<PciDevice> {
        let addresses = names(&self.bus().join("devices")).into_iter().filter_map(|name| name.parse().ok());
        let mut devices: Vec<_> = addresses.filter_map(|address| self.device(address).ok()).collect();
        devices.retain(PciDevice::is_network);
        devices.sort_unstable_by_key(|device| device.address);
        devices
    }

    /// The device at `address`.
    ///
    /// # Errors
    /// [`SysfsError::NoDevice`] when there is none.
    pub fn device(&self, address: PciAddress) -> Result<PciDevice, SysfsError> {
        let folder = self.folder(address);
        let id = |name: &str| number(&folder.join(name)).ok_or(SysfsError::NoDevice(address));
        let interfaces = interfaces(&folder);
        Ok(PciDevice {
            address,
            vendor: id("vendor")? as u16,
            device: id("device")? as u16,
            class: id("class")?,
            driver: link_name(&folder.join("driver")),
            iommu_group: link_name(&folder.join("iommu_group")).and_then(|group| group.parse().ok()),
            // The kernel says -1 where it does not know.
            numa_node: text(&folder.join("numa_node")).and_then(|node| node.parse().ok()),
            link: interfaces.first().and_then(|interface| self.link(interface)),
            interfaces,
        })
    }

    fn link(&self, interface: &str) -> Option<LinkState> {
        let folder = self.root.join("sys/class/net").join(interface);
        // Both files answer with an error while the interface is down; an unknown speed is -1 or its unsigned twin.
        let up = text(&folder.join("carrier"))? == "1";
        let speed = text(&folder.join("speed")).and_then(|speed| speed.parse().ok());
        Some(LinkState { up, speed_mbps: speed.filter(|speed| (1..u32::MAX).contains(speed)) })
    }

    /// The devices that share an IOMMU group.
    fn group_members(&self, group: u32) -> Vec<PciDevice> {
        let folder = self.root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
        let addresses = names(&folder).into_iter().filter_map(|name| name.parse().ok());
        addresses.filter_map(|address| self.device(address).ok()).collect()
    }

    /// The IOMMU group of `device`, if every other device in it is out of the kernel's hands.
    ///
    /// # Errors
    /// [`SysfsError::NoIommu`], or [`SysfsError::NotViable`] with those that are not.
    pub fn viable_group(&self, device: &PciDevice) -> Result<u32, SysfsError> {
        let address = device.address;
        let group = device.iommu_group.ok_or(SysfsError::NoIommu(address))?;
        let in_the_way = |other: &PciDevice| {
            let harmless = |driver: &String| HARMLESS.contains(&driver.as_str());
            other.address != address
                && other.class >> 16 != CLASS_BRIDGE
                && other.driver.as_ref().is_some_and(|driver| !harmless(driver))
        };
        let others: Vec<_> = self.group_members(group).into_iter().filter(in_the_way).collect();
        let Some(first) = others.first().map(|other| other.address) else { return Ok(group) };
        let tell = |other: &PciDevice| format!("{} {}", other.address, held(&other.driver));
        Err(SysfsError::NotViable { address, group, first, others: others.iter().map(tell).collect() })
    }

    /// The interfaces that carry a default route, of IPv4 or IPv6: the route's own, and what a bond, bridge or VLAN stands on.
    pub fn default_route_interfaces(&self) -> Vec<String> {
        let routes = |file| fs::read_to_string(self.root.join("proc/net").join(file)).unwrap_or_default();
        let (ipv4, ipv6) = (routes("route"), routes("ipv6_route"));
        let defaults = ipv4.lines().filter_map(default_route).chain(ipv6.lines().filter_map(default_route_ipv6));
        let mut interfaces: Vec<String> = defaults.map(str::to_owned).collect();
        let mut next = 0;
        while let Some(interface) = interfaces.get(next) {
            let folder = self.root.join("sys/class/net").join(interface);
            for name in names(&folder) {
                let lower = name.strip_prefix("lower_").map(str::to_owned);
                interfaces.extend(lower.filter(|lower| !interfaces.contains(lower)));
            }
            next += 1;
        }
        interfaces
    }

    /// Refuses a device that carries the default route, unless forced.
    fn guard_route(&self, device: &PciDevice, force: bool) -> Result<(), SysfsError> {
        let routes = self.default_route_interfaces();
        match device.interfaces.iter().find(|interface| routes.contains(interface)) {
            Some(interface) if !force => {
                Err(SysfsError::DefaultRoute { address: device.address, interface: interface.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Takes the device from its kernel driver and gives it to vfio-pci, which opens the way to it for [`super::vfio`]. Returns it as it was.
    ///
    /// # Errors
    /// Before anything is changed where it can be known; otherwise the old driver gets the device back.
    pub fn bind(&self, address: PciAddress, force: bool) -> Result<PciDevice, SysfsError> {
        let device = self.device(address)?;
        if !device.is_network() {
            return Err(SysfsError::NotNetwork(address));
        }
        if device.driver.as_deref() == Some(VFIO_DRIVER) {
            return Err(SysfsError::AlreadyBound(address));
        }
        self.guard_route(&device, force)?;
        if device.iommu_group.is_none() {
            return Err(SysfsError::NoIommu(address));
        }
        if !self.bus().join("drivers").join(VFIO_DRIVER).exists() {
            return Err(SysfsError::NoVfio);
        }
        let taken = self.rebind(&device, VFIO_DRIVER).and_then(|driver| match driver.as_deref() {
            Some(VFIO_DRIVER) => Ok(()),
            _ => Err(SysfsError::Refused { address, driver: VFIO_DRIVER }),
        });
        if let Err(error) = taken {
            if let Err(second) = self.rebind(&device, NO_OVERRIDE) {
                log::warn!("{address}: not given back to {:?}: {second}", device.driver);
            }
            return Err(error);
        }
        Ok(device)
    }

    /// Gives the device back to the kernel. Returns the driver that has it now; `None` where no driver wants it.
    ///
    /// # Errors
    /// When it is not there, carries the default route, or a file cannot be written.
    pub fn unbind(&self, address: PciAddress, force: bool) -> Result<Option<String>, SysfsError> {
        let device = self.device(address)?;
        if !device.is_network() {
            return Err(SysfsError::NotNetwork(address));
        }
        self.guard_route(&device, force)?;
        self.rebind(&device, NO_OVERRIDE)
    }

    /// Lets go of the current driver and probes again, for the driver named `wanted` only. Returns who has the device then.
    fn rebind(&self, device: &PciDevice, wanted: &str) -> Result<Option<String>, SysfsError> {
        let folder = self.folder(device.address);
        let address = device.address.to_string();
        let driver = folder.join("driver");
        // The override first: the moment the old driver lets go, another one may probe.
        write(&folder.join("driver_override"), wanted)?;
        if driver.exists() {
            write(&driver.join("unbind"), &address)?;
        }
        write(&self.bus().join("drivers_probe"), &address)?;
        Ok(link_name(&driver))
    }
}

/// Written to `driver_override`, an empty line lets every driver match again.
const NO_OVERRIDE: &str = "\n";

fn write(path: &Path, what: &str) -> Result<(), SysfsError> {
    fs::write(path, what).map_err(|source| SysfsError::File { path: path.to_owned(), source })
}

/// The interface of a line of `/proc/net/route` that is up and goes everywhere.
fn default_route(line: &str) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (interface, destination, flags) = (fields.next()?, fields.next()?, fields.nth(1)?);
    let mask = fields.nth(3)?;
    let everywhere = destination == "00000000" && mask == "00000000";
    (everywhere && is_up(flags)).then_some(interface)
}

/// The interface of a line of `/proc/net/ipv6_route` that is up and goes everywhere: destination, its prefix's length, source and its, next
/// hop, metric, two counts, flags, interface.
fn default_route_ipv6(line: &str) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (destination, prefix) = (fields.next()?, fields.next()?);
    let (flags, interface) = (fields.nth(6)?, fields.next()?);
    let everywhere = prefix == "00" && destination.bytes().all(|digit| digit == b'0');
    (everywhere && is_up(flags)).then_some(interface)
}

/// Whether a route's flags, in hexadecimal, say that it is usable.
fn is_up(flags: &str) -> bool {
    const UP: u32 = 1;
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0)
}

/// The network interfaces of a device: its own, or those of the virtio device on it.
fn interfaces(folder: &Path) -> Vec<String> {
    let virtio = names(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let places = std::iter::once(folder.to_owned()).chain(virtio.map(|name| folder.join(name)));
    let mut interfaces: Vec<_> = places.flat_map(|place| names(&place.join("net"))).collect();
    interfaces.sort_unstable();
    interfaces
}

/// The names in a folder; none where there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The last part of what a link points to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// A file of one line.
fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// A file that holds a number such as `0x8086`.
fn number(path: &Path) -> Option<u32> {
    u32::from_str_radix(text(path)?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up tree: a NIC with an interface, one that shares its group with a disk, and one without IOMMU.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.device("0000:03:00.0", [0x8086, 0x10FB, 0x02_0000], Some("ixgbe"), Some(7));
            tree.put("sys/bus/pci/devices/0000:03:00.0/net/eth0/x", "");
            tree.put("sys/class/net/eth0/carrier", "1\n");
            tree.put("sys/class/net/eth0/speed", "10000\n");
            tree.put("sys/bus/pci/devices/0000:03:00.0/numa_node", "1\n");
            tree.device("0000:04:00.0", [0x1AF4, 0x1041, 0x02_0000], Some("virtio-pci"), Some(8));
            tree.put("sys/bus/pci/devices/0000:04:00.0/virtio2/net/eth1/x", "");
            tree.put("sys/bus/pci/devices/0000:04:00.0/numa_node", "-1\n");
            tree.device("0000:04:00.1", [0x8086, 0x2922, 0x01_0601], Some("ahci"), Some(8));
            tree.device("0000:04:00.2", [0x8086, 0x244E, 0x06_0400], Some("pcieport"), Some(8));
            tree.device("0000:05:00.0", [0x8086, 0x10D3, 0x02_0000], None, None);
            tree.put("sys/bus/pci/drivers_probe", "");
            tree
        }

        fn put(&self, path: &str, what: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, what).unwrap();
        }

        fn device(&self, address: &str, [vendor, device, class]: [u32; 3], driver: Option<&str>, group: Option<u32>) {
            let folder = format!("sys/bus/pci/devices/{address}");
            for (name, value) in [("vendor", vendor), ("device", device), ("class", class)] {
                self.put(&format!("{folder}/{name}"), &format!("{value:#06x}\n"));
            }
            let folder = self.0.path().join(folder);
            if let Some(driver) = driver {
                let place = self.0.path().join("sys/bus/pci/drivers").join(driver);
                fs::create_dir_all(&place).unwrap();
                symlink(place, folder.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let place = self.0.path().join(format!("sys/kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&place).unwrap();
                symlink(place.parent().unwrap(), folder.join("iommu_group")).unwrap();
                symlink(&folder, place.join(address)).unwrap();
            }
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.path().join(path)).unwrap()
        }

        fn sysfs(&self) -> Sysfs {
            Sysfs::new(self.0.path())
        }
    }

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    const NIC: &str = "0000:03:00.0";

    #[test]
    fn addresses_parse_with_and_without_domain_and_nonsense_is_refused() {
        assert_eq!(address("03:1f.7"), PciAddress { domain: 0, bus: 3, device: 31, function: 7 });
        assert_eq!(address("10000:e1:00.0").to_string(), "10000:e1:00.0");
        for bad in ["", "03:00", "03:20.0", "03:00.8", "+3:00.0", "0000:03:00.0/x", "::.", "100:00.0"] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn discovery_reads_ids_driver_interface_group_node_and_link() {
        let devices = Tree::new().sysfs().network_devices();
        let nic = PciDevice {
            address: address(NIC),
            vendor: 0x8086,
            device: 0x10FB,
            class: 0x02_0000,
            driver: Some("ixgbe".to_owned()),
            interfaces: vec!["eth0".to_owned()],
            iommu_group: Some(7),
            numa_node: Some(1),
            link: Some(LinkState { up: true, speed_mbps: Some(10_000) }),
        };
        assert_eq!(devices[0], nic);
        let [_, virtio, bare] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((&virtio.interfaces[..], virtio.numa_node, virtio.link), (&["eth1".to_owned()][..], None, None));
        assert_eq!((&bare.driver, bare.iommu_group), (&None, None));
    }

    #[test]
    fn tree_without_pci_has_no_devices_and_missing_ones_are_named() {
        let empty = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::new(empty.path());
        assert!(sysfs.network_devices().is_empty());
        let error = sysfs.bind(address(NIC), false).unwrap_err().to_string();
        assert_eq!(error, "no PCI device at 0000:03:00.0; `barewire devices` lists the network devices there are");
    }

    #[test]
    fn group_with_a_disk_in_it_is_not_viable_and_a_bridge_does_not_matter() {
        let tree = Tree::new();
        let sysfs = tree.sysfs();
        assert_eq!(sysfs.viable_group(&sysfs.device(address(NIC)).unwrap()).unwrap(), 7);
        let error = sysfs.viable_group(&sysfs.device(address("04:00.0")).unwrap()).unwrap_err().to_string();
        let said = "0000:04:00.0: IOMMU group 8 is not viable: 0000:04:00.1 is bound to driver ahci too; \
                    take it away: echo 0000:04:00.1 > /sys/bus/pci/devices/0000:04:00.1/driver/unbind";
        assert_eq!(error, said);
        let error = sysfs.viable_group(&sysfs.device(address("05:00.0")).unwrap()).unwrap_err();
        assert!(matches!(error, SysfsError::NoIommu(_)), "{error}");
    }

    #[test]
    fn default_route_is_guarded_through_bridges_unless_forced() {
        let tree = Tree::new();
        tree.put(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nbr0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
        );
        tree.put("sys/class/net/br0/lower_eth0", "");
        let error = tree.sysfs().bind(address(NIC), false).unwrap_err();
        assert!(matches!(&error, SysfsError::DefaultRoute { interface, .. } if interface == "eth0"), "{error}");
        assert!(matches!(tree.sysfs().unbind(address(NIC), false), Err(SysfsError::DefaultRoute { .. })));
        assert!(matches!(tree.sysfs().bind(address(NIC), true), Err(SysfsError::NoVfio)));
    }

    #[test]
    fn default_route_of_ipv6_is_guarded_and_one_that_leads_nowhere_is_not() {
        let route = |flags, interface| {
            let zero = "0".repeat(32);
            format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 {flags} {interface}\n")
        };
        let tree = Tree::new();
        tree.put("proc/net/ipv6_route", &(route("00200200", "lo") + &route("00000003", "eth0")));
        assert_eq!(tree.sysfs().default_route_interfaces(), ["eth0"]);
        let error = tree.sysfs().bind(address(NIC), false).unwrap_err();
        assert!(matches!(&error, SysfsError::DefaultRoute { interface, .. } if interface == "eth0"), "{error}");
    }

    #[test]
    fn bind_writes_override_unbind_probe_and_gives_back_what_vfio_does_not_take() {
        let tree = Tree::new();
        fs::create_dir_all(tree.0.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
        // Nobody plays the kernel here: the driver stays what it was, and that is noticed.
        let error = tree.sysfs().bind(address(NIC), false).unwrap_err();
        assert!(matches!(error, SysfsError::Refused { .. }), "{error}");
        assert_eq!(tree.read("sys/bus/pci/drivers/ixgbe/unbind"), NIC);
        assert_eq!(tree.read("sys/bus/pci/drivers_probe"), NIC);
        assert_eq!(tree.read("sys/bus/pci/devices/0000:03:00.0/driver_override"), "\n");
    }

    #[test]
    fn bind_refuses_what_is_bound_already_and_what_is_no_nic() {
        let tree = Tree::new();
        tree.device("0000:06:00.0", [0x8086, 0x100E, 0x02_0000], Some(VFIO_DRIVER), Some(9));
        assert!(matches!(tree.sysfs().bind(address("06:00.0"), false), Err(SysfsError::AlreadyBound(_))));
        assert!(matches!(tree.sysfs().bind(address("04:00.1"), true), Err(SysfsError::NotNetwork(_))));
        assert!(matches!(tree.sysfs().bind(address("05:00.0"), true), Err(SysfsError::NoIommu(_))));
        assert_eq!(tree.sysfs().unbind(address("06:00.0"), false).unwrap().as_deref(), Some(VFIO_DRIVER));
    }
}
