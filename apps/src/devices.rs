//! The network devices of this machine, and taking them from the kernel or giving them back.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use barewire_driver::bus::sysfs::{LinkState, PciAddress, PciDevice, Sysfs, SysfsError, VFIO_DRIVER};
use serde_json::{Value, json};

use crate::port;

/// Prints the network devices below `sysfs`.
pub fn list(sysfs: &Sysfs, json: bool, out: &mut impl Write) -> io::Result<()> {
    let devices = sysfs.network_devices();
    if json {
        let devices: Vec<_> = devices.iter().map(describe).collect();
        return writeln!(out, "{}", json!({ "devices": devices }));
    }
    if devices.is_empty() {
        return writeln!(out, "no PCI network devices; try --port model:82599");
    }
    let head = ["ADDRESS", "IDS", "DRIVER", "INTERFACE", "IOMMU", "NODE", "LINK", "NAME"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(devices.iter().map(row)).collect();
    let widths: [usize; 8] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn describe(device: &PciDevice) -> Value {
    let part = port::part(device.vendor, device.device);
    json!({
        "address": device.address.to_string(),
        "ids": format!("{:04x}:{:04x}", device.vendor, device.device),
        "name": part.map(|(_, name)| name),
        "supported": part.is_some(),
        "supported_by": part.map(|(driver, _)| driver.name()),
        "driver": device.driver,
        "interfaces": device.interfaces,
        "iommu_group": device.iommu_group,
        "numa_node": device.numa_node,
        "link": device.link.map(|LinkState { up, speed_mbps }| json!({ "up": up, "speed_mbps": speed_mbps })),
    })
}

fn row(device: &PciDevice) -> [String; 8] {
    let dash = || "-".to_owned();
    let number = |number: Option<u32>| number.map_or_else(dash, |number| number.to_string());
    let link = match device.link {
        None => dash(),
        Some(LinkState { up: false, .. }) => "down".to_owned(),
        Some(LinkState { speed_mbps: None, .. }) => "up".to_owned(),
        Some(LinkState { speed_mbps: Some(speed), .. }) => format!("{speed} Mb/s"),
    };
    [
        device.address.to_string(),
        format!("{:04x}:{:04x}", device.vendor, device.device),
        device.driver.clone().unwrap_or_else(dash),
        if device.interfaces.is_empty() { dash() } else { device.interfaces.join(",") },
        number(device.iommu_group),
        number(device.numa_node),
        link,
        port::part(device.vendor, device.device).map_or("not supported", |(_, name)| name).to_owned(),
    ]
}

/// Takes a device from its kernel driver.
pub fn bind(sysfs: &Sysfs, address: PciAddress, force: bool, out: &mut impl Write) -> Result<(), Error> {
    let before = sysfs.bind(address, force)?;
    let from = before.driver.map_or("no driver".to_owned(), |driver| format!("driver {driver}"));
    writeln!(out, "{address}: bound to {VFIO_DRIVER}, before to {from}")?;
    writeln!(out, "  use it    --port vfio:{address}")?;
    if let Some(group) = before.iommu_group {
        writeln!(out, "  not root  sudo chown $USER {}", sysfs.group_file(group).display())?;
    }
    writeln!(out, "  undo      barewire unbind {address}")?;
    Ok(())
}

/// Gives a device back to the kernel.
pub fn unbind(sysfs: &Sysfs, address: PciAddress, force: bool, out: &mut impl Write) -> Result<(), Error> {
    match sysfs.unbind(address, force)? {
        Some(driver) => writeln!(out, "{address}: bound to driver {driver}")?,
        None => writeln!(out, "{address}: free; no driver of the kernel wants it")?,
    }
    writeln!(out, "  undo      barewire bind {address}")?;
    Ok(())
}

/// Why a device was not bound or unbound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device's side.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// The output's side.
    #[error(transparent)]
    Output(#[from] io::Error),
}
