//! Traffic of every kind, both ways, between our driver and Linux's.
#![forbid(unsafe_code)]

use std::time::Duration;

use barewire_tests::checks::Checks;
use barewire_tests::guest::{Guest, example, qemu};
use barewire_tests::models::Models;
use serde_json::{Value, json};

use super::{Told, guest};

/// Some times what everything takes where nothing else runs.
const LIMIT: Duration = Duration::from_secs(590);
const SCRIPT: &str = include_str!("traffic.sh");
/// Datagrams a second: half of what the slowest of the emulated NICs carries.
const RATE: &str = "5000";
const MIB: u64 = 1 << 20;

/// Runs the script in a guest with the NICs that `fit` puts in, and judges what it tells; `linux` is the driver from which the NIC was taken.
fn check(nic: &str, linux: &str, options: &str, fit: impl FnOnce(Guest) -> Guest) {
    let mut checks = Checks::of(nic);
    if let Err(reason) = qemu() {
        return checks.skip("traffic through the kernel's VFIO", reason);
    }
    let (_turn, guest) = guest(LIMIT);
    let guest = fit(guest).copy(&example("linux_peer"), "/bin/linux_peer").file("/traffic.sh", SCRIPT);
    let told = &Told::by(&guest.run(&format!("sh /traffic.sh {RATE} {options}")));
    checks.note("devices agrees with /sys: in Linux's hands", devices(told, "before", [linux, linux]));
    checks.note("devices agrees with /sys: bound to vfio-pci", devices(told, "bound", ["vfio-pci", linux]));
    checks.note("devices agrees with /sys: given back", devices(told, "after", [linux, linux]));
    for (who, of) in [("root", ""), ("trader", ", as an ordinary user")] {
        checks.note(&format!("ARP both ways{of}"), arp(told, who));
        checks.note(&format!("ping from Linux{of}"), ping_from_linux(told, who));
        checks.note(&format!("ping to Linux{of}"), ping_to_linux(told, who));
        let (mib, datagrams, told_as) = if who == "root" { (32, 100_000, "100,000") } else { (4, 5_000, "5,000") };
        checks.note(&format!("TCP from Linux, {mib} MiB{of}"), tcp(told, who, "in", mib * MIB));
        checks.note(&format!("TCP to Linux, {mib} MiB{of}"), tcp(told, who, "out", mib * MIB));
        checks.note(&format!("{told_as} datagrams from Linux{of}"), datagrams_from_linux(told, who, datagrams));
        checks.note(&format!("{told_as} datagrams to Linux{of}"), datagrams_to_linux(told, who, datagrams));
        checks.note(&format!("IGMP: joins and leaves{of}"), membership(told, who));
    }
    checks.note("an ordinary user needs the group's file", refused(told));
    checks.note("TCP from Linux, 4 MiB through loss", tcp_in_trouble(told, "in", "trouble from Linux"));
    checks.note("TCP to Linux, 4 MiB through loss", tcp_in_trouble(told, "out", "trouble to Linux"));
    checks.note("the IOMMU saw no fault", faults(told));
    checks.finish();
}

/// `said`, if `holds`; otherwise `seen`.
fn judge(holds: bool, said: impl Into<String>, seen: &Value) -> Result<String, String> {
    if holds { Ok(said.into()) } else { Err(seen.to_string()) }
}

/// Both ways of looking see the same at the time `when`, and `drivers` in charge.
fn devices(told: &Told, when: &str, drivers: [&str; 2]) -> Result<String, String> {
    let (ours, sys) = (told.fact(&format!("{when} devices"))?, told.fact(&format!("{when} sys"))?);
    let devices = ours["devices"].as_array().ok_or("no list of devices")?;
    let ours: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({
                "address": device["address"], "ids": device["ids"], "driver": device["driver"],
                "iommu_group": device["iommu_group"], "interface": device["interfaces"][0].as_str().unwrap_or(""),
                "up": device["link"]["up"], "speed_mbps": device["link"]["speed_mbps"],
            })
        })
        .collect();
    let seen = json!({ "devices": ours, "sys": sys });
    let named = devices.iter().map(|device| &device["driver"]).eq(drivers.iter());
    judge(seen["devices"] == seen["sys"] && named, drivers.join(", "), &seen)
}

fn arp(told: &Told, who: &str) -> Result<String, String> {
    let neighbours = told.fact(&format!("{who} neighbours"))?;
    let mac = &told.fact(&format!("{who} answering ours"))?["mac"];
    let learnt = neighbours.as_array().into_iter().flatten().any(|entry| entry["lladdr"] == *mac);
    // Our process began with an empty table: without Linux's address no request leaves.
    let asked = told.fact(&format!("{who} asking ours"))?["received"].as_u64() > Some(0);
    judge(learnt && asked, format!("Linux holds {mac}"), neighbours)
}

fn ping_from_linux(told: &Told, who: &str) -> Result<String, String> {
    let summary = told.fact(&format!("{who} ping"))?;
    let text = summary.as_str().unwrap_or_default();
    judge(text.starts_with("20 packets transmitted, 20 ") && text.contains(" 0% "), text, summary)
}

fn ping_to_linux(told: &Told, who: &str) -> Result<String, String> {
    let report = told.fact(&format!("{who} asking ours"))?;
    let counts = ["sent", "received", "lost", "strange"].map(|name| report[name].as_u64());
    let median = report["round_trip_ns"]["p50"].as_u64().unwrap_or(0) / 1000;
    judge(counts == [20, 20, 0, 0].map(Some), format!("20 of 20, median {median} us"), report)
}

/// Both ends have the same bytes, as many as were to be sent.
fn tcp(told: &Told, who: &str, way: &str, bytes: u64) -> Result<String, String> {
    let (ours, theirs) = (told.fact(&format!("{who} tcp {way} ours"))?, told.fact(&format!("{who} tcp {way} theirs"))?);
    let verb = if way == "in" { "received" } else { "sent" };
    let [passed, sum] = ["bytes", "sha256"].map(|what| &ours[format!("{what}_{verb}")]);
    let same = *passed == bytes && theirs["bytes"] == bytes && *sum == theirs["sha256"];
    let speed = ours["megabytes_per_second"].as_f64().unwrap_or(0.0);
    let short = sum.as_str().and_then(|sum| sum.get(..8)).unwrap_or_default();
    let seen = json!({ "ours": ours, "theirs": theirs });
    judge(same && ours["complete"] == true, format!("SHA-256 {short}.. at both ends, {speed:.1} MB/s"), &seen)
}

/// As [`tcp`], where frames really were dropped on the way.
fn tcp_in_trouble(told: &Told, way: &str, line: &str) -> Result<String, String> {
    let passed = tcp(told, "trouble", way, 4 * MIB)?;
    let line = &told.fact(line)?[0];
    let dropped = line["drops"].as_u64().unwrap_or(0);
    judge(dropped > 0, format!("{passed}, {dropped} frames dropped by netem"), line)
}

fn datagrams_from_linux(told: &Told, who: &str, count: u64) -> Result<String, String> {
    let ours = told.fact(&format!("{who} group in ours"))?;
    let counts = ["received", "missing", "duplicates", "strange"].map(|name| ours[name].as_u64());
    let rate = ours["datagrams_per_second"].as_f64().unwrap_or(0.0);
    judge(counts == [count, 0, 0, 0].map(Some), format!("none missing, {rate:.0} a second"), ours)
}

fn datagrams_to_linux(told: &Told, who: &str, count: u64) -> Result<String, String> {
    let (ours, theirs) = (told.fact(&format!("{who} group out ours"))?, told.fact(&format!("{who} group out theirs"))?);
    let counts = [ours["sent"].as_u64(), theirs["received"].as_u64(), theirs["strange"].as_u64()];
    let rate = ours["datagrams_per_second"].as_f64().unwrap_or(0.0);
    judge(counts == [count, count, 0].map(Some), format!("none missing, {rate:.0} a second"), &json!([ours, theirs]))
}

/// Linux's bridge saw our report on the wire, listed the group as wanted on the NIC's side, and struck it off when we left.
fn membership(told: &Told, who: &str) -> Result<String, String> {
    let joined = told.fact(&format!("{who} joined"))?;
    let entries = joined[0]["mdb"].as_array().into_iter().flatten();
    let wanted = entries.into_iter().find(|entry| entry["grp"] == "239.1.1.1" && entry["port"] != "br0");
    let port = wanted.and_then(|entry| entry["port"].as_str());
    told.fact(&format!("{who} left"))?;
    judge(port.is_some(), format!("snooped on {}", port.unwrap_or_default()), joined)
}

/// Before the group's file was given to the user.
fn refused(told: &Told) -> Result<String, String> {
    let said = told.fact("refused")?;
    let line = said.as_str().unwrap_or_default();
    judge(line.contains("/dev/vfio/") && line.contains("chown"), line, said)
}

fn faults(told: &Told) -> Result<String, String> {
    let faults = told.fact("faults")?;
    judge(*faults == 0, "the kernel's log names none", faults)
}

/// Two NICs of one kind on a hub of QEMU's.
fn check_emulated(nic: &str, linux: &str) {
    let each = format!("{nic}@hub");
    check(nic, linux, "", |guest| guest.nic(&each).nic(&each));
}

#[test]
fn e1000_and_linux_carry_each_others_traffic() {
    check_emulated("e1000", "e1000");
}

#[test]
fn e1000e_and_linux_carry_each_others_traffic() {
    check_emulated("e1000e", "e1000e");
}

#[test]
fn virtio_net_and_linux_carry_each_others_traffic() {
    check_emulated("virtio-net", "virtio-pci");
}

/// Two of our models in a process of their own. Linux's goes without translation: each of its frames would be mapped anew, by a message to the
/// model, which no hardware does.
#[test]
fn ixgbe_on_the_82599_model_and_linux_carry_each_others_traffic() {
    let models = Models::start(&["a", "b"], &[]);
    let nics = ["a", "b"].map(|socket| format!("vfio-user:{}", models.path(socket).display()));
    check("82599 model", "ixgbe", "direct", |guest| guest.nic(&nics[0]).nic(&nics[1]));
}
