//! What a person may get wrong: each is told in one line with the command that mends it, and nothing is left bound or mapped.
#![forbid(unsafe_code)]

use std::time::Duration;

use barewire_tests::checks::Checks;
use barewire_tests::guest::{Guest, barewire, qemu};

use super::{ALONE, COMMON, LINUX, Told, guest};

/// Some times what everything takes where nothing else runs.
const LIMIT: Duration = Duration::from_secs(300);
const SCRIPT: &str = include_str!("input.sh");
/// The first column of the table: any NIC would do.
const NIC: &str = "any NIC";
/// Two conventional NICs behind a bridge that cannot tell them apart (PCI Express to PCI/PCI-X Bridge 1.0, 2.3: one requester for both), on
/// the segment of the others.
const SHARED_GROUP: [&str; 12] = [
    "-device",
    "pcie-root-port,id=port9,chassis=9",
    "-device",
    "pcie-pci-bridge,id=bridge,bus=port9",
    "-netdev",
    "hubport,id=first,hubid=0",
    "-netdev",
    "hubport,id=second,hubid=0",
    "-device",
    "e1000,bus=bridge,addr=1,netdev=first,romfile=",
    "-device",
    "e1000,bus=bridge,addr=2,netdev=second,romfile=",
];

/// `command` ended with `status`, changed no driver, left nothing mapped, and said one line with all of `parts`.
fn refused(told: &Told, command: &str, status: i32, parts: &[&str]) -> Result<String, String> {
    let fact = |what: &str| told.fact(&format!("{command} {what}"));
    let said = fact("said")?.as_str().unwrap_or_default();
    let line = said.strip_suffix('|').filter(|line| !line.contains('|'));
    let (ended, left, changed) = (fact("status")?, fact("left")?, fact("changed")?);
    let clean = *ended == status && *left == 0 && *changed == false;
    match line.filter(|line| clean && parts.iter().all(|part| line.contains(part))) {
        Some(line) => Ok(format!("exit status {status}: {line}")),
        None => {
            Err(format!("exit status {ended}, {left} pages left pinned, drivers changed: {changed}, said {said:?}"))
        }
    }
}

/// What mends it was done, and then it worked.
fn mended(told: &Told, command: &str) -> Result<(), String> {
    let status = told.fact(&format!("{command} status"))?;
    if *status == 0 {
        Ok(())
    } else {
        Err(format!("{command}: exit status {status}, {}", told.fact(&format!("{command} said"))?))
    }
}

#[test]
fn bad_input_is_told_with_what_mends_it() {
    let mut checks = Checks::of(NIC);
    if let Err(reason) = qemu() {
        return checks.skip("bad input", reason);
    }
    let (_turn, guest) = guest(LIMIT);
    let guest = guest.hugepages(2).nic("e1000e").nic("virtio-net").file("/input.sh", SCRIPT);
    let guest = SHARED_GROUP.iter().fold(guest, |guest, argument| guest.qemu(argument));
    let told = &Told::by(&guest.run("sh /input.sh"));
    let name = |fact: &str| told.fact(fact).ok().and_then(|value| value.as_str()).unwrap_or("?").to_owned();
    let (file, first, second) = (name("group file"), name("first"), name("second"));
    let absent = ["no PCI device at 0000:7f:00.0; `barewire devices` lists the network devices there are"];
    let route =
        ["0000:01:00.0 is ", ", which carries the default route; choose another device, or insist with --force"];
    let in_use = format!("another process has it; `fuser -v {file}` names it");
    let permission = format!("{file}: Permission denied (os error 13); run `sudo chown $USER {file}`");
    let not_viable = format!("{first}: IOMMU group ");
    let culprit = format!(
        "{second} is bound to driver e1000 too; take it away: echo {second} > /sys/bus/pci/devices/{second}/driver/unbind"
    );
    let memlock =
        ["of DMA memory must be locked, the limit is 64 KiB; run `sudo prlimit --pid $$ --memlock=unlimited`"];
    for (command, status, parts) in [
        ("absent, bind", 2, &absent[..]),
        ("absent, use", 2, &absent),
        ("no NIC", 2, &["0000:00:1f.2 is no network device; `barewire devices` lists those there are"]),
        ("no vfio-pci", 2, &["driver vfio-pci is not loaded; run `modprobe vfio-pci`"]),
        ("not bound", 2, &["0000:01:00.0 is bound to driver e1000e; run `barewire bind 0000:01:00.0`"]),
        ("bound already", 2, &["0000:01:00.0 is bound to vfio-pci already", "`barewire unbind 0000:01:00.0`"]),
        ("open elsewhere", 1, &[&in_use]),
        ("not permitted", 1, &[&permission]),
        ("memlock", 1, &memlock),
        ("group", 2, &[&not_viable, " is not viable: ", &culprit]),
        ("default route, bind", 2, &route),
        ("default route, unbind", 2, &route),
        ("IPv6 default route", 2, &route),
    ] {
        checks.note(command, refused(told, command, status, parts));
    }
    for (what, command) in [
        ("not bound: the command mends it", "mended: bind"),
        ("memlock and permission: the commands mend them", "mended: user"),
        ("group: the command mends it", "mended: group"),
    ] {
        checks.note(what, mended(told, command).map(|()| "traffic passes".to_owned()));
    }
    checks.note("default route: forced, and undone as it says", forced(told));
    checks.note("too few huge pages", too_few_hugepages(told));
    checks.finish();
}

fn forced(told: &Told) -> Result<String, String> {
    mended(told, "forced")?;
    mended(told, "undone")?;
    let (undo, driver) = (told.fact("undo")?, told.fact("undone driver")?);
    let right = *undo == "barewire unbind 0000:01:00.0" && *driver == "e1000e";
    if right { Ok(format!("{undo}: driver {driver}")) } else { Err(format!("{undo}: driver {driver}")) }
}

/// Two pages are there, the packet buffers want three: they go on plain pages, which is said once; all huge pages are free afterwards.
fn too_few_hugepages(told: &Told) -> Result<String, String> {
    mended(told, "hugepages")?;
    let (said, free) = (told.fact("hugepages said")?.as_str().unwrap_or_default(), told.fact("hugepages free")?);
    let lines: Vec<_> = said.split('|').filter(|line| line.contains("huge pages")).collect();
    match lines[..] {
        [line] if line.contains("sysctl vm.nr_hugepages=") && *free == serde_json::json!([2, 2]) => Ok(line.to_owned()),
        _ => Err(format!("free before and after: {free}; said {said:?}")),
    }
}

#[test]
fn machine_without_iommu_is_told_how_to_get_one() {
    let mut checks = Checks::of(NIC);
    if let Err(reason) = qemu() {
        return checks.skip("a machine without IOMMU", reason);
    }
    let _turn = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let guest = Guest::new(LINUX, LIMIT).barewire(barewire()).nic("e1000e").file("/common.sh", COMMON);
    let told = &Told::by(&guest.file("/input.sh", SCRIPT).run("sh /input.sh without-iommu"));
    let line =
        "0000:01:00.0 is in no IOMMU group; switch the IOMMU on in the firmware and boot Linux with intel_iommu=on";
    for command in ["no IOMMU, bind", "no IOMMU, use"] {
        checks.note(command, refused(told, command, 2, &[line]));
    }
    checks.finish();
}
