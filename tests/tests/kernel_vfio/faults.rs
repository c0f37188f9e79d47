//! What may go wrong with a device at work: its cable, its slot, our process, its descriptors.
#![forbid(unsafe_code)]

use std::time::Duration;

use barewire_tests::checks::Checks;
use barewire_tests::guest::{Guest, Output, example, qemu};
use serde_json::Value;

use super::{Told, guest};

/// Some times what everything takes where nothing else runs.
const LIMIT: Duration = Duration::from_secs(480);
const SCRIPT: &str = include_str!("faults.sh");
/// The name that the device has in our messages.
const PORT: &str = "vfio:0000:01:00.0";

/// Runs the script with `nic` ours and `peer` Linux's, works the cable and the slot for it, and judges what it tells.
fn check(nic: &str, peer: &str) {
    let mut checks = Checks::of(nic);
    if let Err(reason) = qemu() {
        return checks.skip("faults of a device behind the kernel's VFIO", reason);
    }
    let (_turn, guest) = guest(LIMIT);
    let guest = guest.nic(nic).nic(peer).copy(&example("dma_fault"), "/bin/dma_fault").file("/faults.sh", SCRIPT);
    let (output, removed) = play(guest);
    let told = &Told::by(&output);
    checks.note("a receive descriptor outside the memory: the IOMMU holds", dma(told, "receive", "after-receive"));
    checks.note("a transmit descriptor outside the memory: the IOMMU holds", dma(told, "transmit", "after-transmit"));
    checks.note("link down and up in a transfer", link(told));
    checks.note("killed in a transfer: the next run works", killed(told));
    checks.note("a killed process's rings are not used any more", other_faults(told, &output));
    checks.note("SIGTERM ends it in order", ended(told, "TERM"));
    checks.note("SIGINT ends it in order", ended(told, "INT"));
    checks.note("removal in a transfer", removed.and_then(|()| removal(told)));
    checks.note("a device that is gone is refused", gone(told));
    checks.finish();
}

#[test]
fn e1000e_survives_what_may_go_wrong() {
    check("e1000e", "virtio-net");
}

#[test]
fn virtio_net_survives_what_may_go_wrong() {
    check("virtio-net", "e1000e");
}

/// Boots, and does what the script asks for. Says how the removal went.
fn play(guest: Guest) -> (Output, Result<(), String>) {
    let mut guest = guest.start("sh /faults.sh");
    let mut removed = Err("the script did not get to it".to_owned());
    for asked in ["cable out, please", "cable in, please", "take the NIC away, please"] {
        if guest.wait_for(asked).is_none() {
            break;
        }
        let done = guest.qmp().and_then(|mut qmp| match asked {
            "cable out, please" => qmp.set_link("nic0", false),
            "cable in, please" => qmp.set_link("nic0", true),
            _ => qmp.remove("nic0"),
        });
        removed = done.map_err(|error| format!("QEMU's monitor: {error}"));
    }
    (guest.wait(), removed)
}

/// Each of `facts` holds, or the first that does not.
fn all(told: &Told, facts: &[(&str, Value)]) -> Result<(), String> {
    for (name, expected) in facts {
        let found = told.fact(name)?;
        if found != expected {
            return Err(format!("{name} is {found}, not {expected}"));
        }
    }
    Ok(())
}

fn text<'a>(told: &'a Told, name: &str) -> Result<&'a str, String> {
    told.fact(name)?.as_str().ok_or_else(|| format!("{name} is no text"))
}

/// What our process said contains `expected`.
fn says(told: &Told, name: &str, expected: &str) -> Result<(), String> {
    let said = text(told, name)?;
    if said.contains(expected) { Ok(()) } else { Err(format!("{name}: {said:?} has no {expected:?}")) }
}

/// A device wrote to the page while it might, and could not when it might not; Linux tells of the fault, and traffic passes afterwards.
fn dma(told: &Told, way: &str, after: &str) -> Result<String, String> {
    all(told, &[("dma status", 0.into())])?;
    if told.fact("mapped")?["caught"] != true {
        return Err("the trap does not work: a mapped page was not written to".to_owned());
    }
    let found = told.fact(way)?;
    let fault = found["fault"].as_str().ok_or("the kernel's log tells of no fault")?;
    let holds = fault.contains("Request device [01:00.0]") && found["intact"] == true;
    let recovered = &told.fact(after)?["answered"];
    if !holds || found["outcome"]["answered"] == true || recovered != true {
        return Err(format!("{found}, afterwards {}", told.fact(after)?));
    }
    let noticed = match &found["outcome"]["error"] {
        Value::String(error) => error,
        _ => "the device tells its driver nothing; the frame is lost",
    };
    Ok(format!("{fault}; {noticed}"))
}

/// The transfer `name` is complete, and what arrived is what was sent.
fn complete(told: &Told, name: &str) -> Result<String, String> {
    all(told, &[(&format!("{name} status"), 0.into()), (&format!("{name} pinned"), 0.into())])?;
    let (report, got) = (told.fact(&format!("{name} report"))?, told.fact(&format!("{name} got"))?);
    if report["complete"] != true || report["sha256_sent"] != *got {
        return Err(format!("{report}, SHA-256 of what arrived: {got}"));
    }
    Ok(format!("{} bytes, SHA-256 equal, {} sent again", report["bytes_sent"], report["frames"]["retransmits"]))
}

fn link(told: &Told) -> Result<String, String> {
    let still = told.fact("link still")?;
    if still[0] != still[1] {
        return Err(format!("bytes arrived with the link down: {still}"));
    }
    says(told, "link said", "link down")?;
    says(told, "link said", "link up")?;
    complete(told, "link")
}

fn killed(told: &Told) -> Result<String, String> {
    const KILLED: i32 = 128 + 9;
    let pinned = told.fact("at work pinned")?.as_u64().unwrap_or(0);
    if pinned == 0 {
        return Err("nothing is pinned while the device is at work".to_owned());
    }
    all(
        told,
        &[
            ("killed status", KILLED.into()),
            ("killed pinned", 0.into()),
            ("killed driver", "vfio-pci".into()),
            ("again given back", true.into()),
            ("again taken", "vfio-pci".into()),
        ],
    )?;
    Ok(format!("{pinned} pages pinned, none afterwards; {}", complete(told, "again")?))
}

/// Besides the faults that were provoked, the IOMMU saw none: above all none of rings that a dead process left in the device.
fn other_faults(told: &Told, output: &Output) -> Result<String, String> {
    let provoked = ["receive", "transmit"].map(|way| told.fact(way).ok().and_then(|found| found["fault"].as_str()));
    let is_provoked = |line: &str| provoked.iter().flatten().any(|fault| line.contains(*fault));
    told.fact("again status")?;
    match output.log.lines().find(|line| line.contains("fault addr") && !is_provoked(line)) {
        None => Ok("no other fault of the IOMMU".to_owned()),
        Some(line) => Err(line.to_owned()),
    }
}

fn ended(told: &Told, signal: &str) -> Result<String, String> {
    let fact = |what: &str| format!("{signal} {what}");
    let orderly = [
        (&*fact("status"), 1.into()),
        (&*fact("pinned"), 0.into()),
        (&*fact("given back"), true.into()),
        (&*fact("taken"), "vfio-pci".into()),
    ];
    all(told, &orderly)?;
    says(told, &fact("said"), "ended before everything was transferred")?;
    let sent = &told.fact(&fact("report"))?["bytes_sent"];
    Ok(format!("a report of {sent} bytes, exit status 1, and the NIC is Linux's again"))
}

fn removal(told: &Told) -> Result<String, String> {
    all(told, &[("removed status", 1.into()), ("removed pinned", 0.into())])?;
    says(told, "removed said", &format!("{PORT}: the device is being removed; it has been released"))?;
    Ok(format!("exit status 1: {}", text(told, "removed said")?.trim_end()))
}

fn gone(told: &Told) -> Result<String, String> {
    all(told, &[("gone status", 2.into())])?;
    says(told, "gone said", "no PCI device at 0000:01:00.0; `barewire devices` lists")?;
    Ok(text(told, "gone said")?.to_owned())
}
