//! The launcher of guests: it tells the truth about what ran in them, works their monitor, and bounds them.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use barewire_tests::guest::{Guest, qemu};

/// Far more than a boot takes.
const LIMIT: Duration = Duration::from_secs(240);

barewire_tests::rows! {
    "guests":
    guest_command_ends_output_and_status_pass_through
    guest_nics_on_one_hub_hear_each_other_and_obey_the_monitor
    guest_over_its_limit_or_dropped_leaves_no_process
}

/// Whether there is a QEMU for `what`; notes the skip where there is none.
fn have_qemu(what: &str) -> bool {
    qemu().inspect_err(|reason| barewire_tests::skip(what, reason)).is_ok()
}

/// How many processes of this machine carry `name` in their arguments.
fn processes_named(name: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    entries
        .filter(|entry| {
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(name)
        })
        .count()
}

fn guest_command_ends_output_and_status_pass_through() {
    if !have_qemu("guest: exit status") {
        return;
    }
    let script = r#"read line </note; echo "$line"; uname -r; echo aside >&2; printf 'no newline'; exit 7"#;
    let output = Guest::new("6.1", LIMIT).file("/note", "it's \"here\"\n").hugepages(16).memory_mib(384).run(script);
    assert_eq!(output.status, 7, "{output:?}");
    let lines: Vec<_> = output.stdout.split('\n').collect();
    assert!(matches!(lines[..], ["it's \"here\"", release, "no newline"] if release.starts_with("6.1.")), "{lines:?}");
    assert!(output.stderr.starts_with("aside\n"), "{}", output.stderr);
    assert!(output.log.contains("Linux version 6.1.") && !output.log.contains("aside"), "{}", output.log);
}

fn guest_nics_on_one_hub_hear_each_other_and_obey_the_monitor() {
    if !have_qemu("guest: hub and monitor") {
        return;
    }
    let script = r"
        set -e
        of() { find -H /sys/bus/pci/devices/$1 -name net -exec ls {} +; }
        ip netns add far
        near=$(of 0000:01:00.0) far=$(of 0000:02:00.0)
        ip link set $far netns far
        ip addr add 10.7.0.1/24 dev $near
        ip -n far addr add 10.7.0.2/24 dev $far
        ip link set $near up
        ip -n far link set $far up
        until ping -c 1 -W 1 10.7.0.2 >/dev/null; do :; done
        ping -c 3 10.7.0.2 | grep received
        for address in 0000:01:00.0 0000:02:00.0; do
            basename $(readlink /sys/bus/pci/devices/$address/iommu_group)
        done | sort -u | wc -l
        echo connected
        while [ $(cat /sys/class/net/$near/carrier) = 1 ]; do sleep 0.1; done
        echo unplugged
        while [ -e /sys/bus/pci/devices/0000:02:00.0 ]; do sleep 0.1; done
        echo removed
    ";
    let mut guest = Guest::new("6.12", LIMIT).nic("e1000e").nic("virtio-net").iommu().cpus(2).start(script);
    let Some(_) = guest.wait_for("connected") else { panic!("{:?}", guest.wait()) };
    let mut qmp = guest.qmp().expect("the monitor listens");
    assert!(qmp.execute("no-such-command", serde_json::json!({})).is_err());
    qmp.set_link("nic0", false).expect("the link goes down");
    guest.wait_for("unplugged").expect("Linux sees the link go");
    qmp.remove("nic1").expect("Linux lets the NIC go");
    let output = guest.wait();
    assert_eq!(output.status, 0, "{output:?}");
    assert!(output.stdout.contains("3 packets received, 0% packet loss\n2\nconnected\n"), "{}", output.stdout);
    assert!(output.stdout.ends_with("removed\n"), "{}", output.stdout);
}

fn guest_over_its_limit_or_dropped_leaves_no_process() {
    if !have_qemu("guest: time limit") {
        return;
    }
    let name = format!("guest-limit-{}", std::process::id());
    let guest = || Guest::new("6.12", Duration::from_secs(3)).qemu("-name").qemu(&name);
    let start = Instant::now();
    let output = guest().run("sleep 1000");
    assert_eq!(output.status, 124, "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(processes_named(&name), 0);

    let start = Instant::now();
    let running = guest().start("sleep 1000");
    // The launcher, and QEMU.
    while processes_named(&name) < 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "QEMU does not start");
    }
    drop(running);
    while processes_named(&name) > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "QEMU outlives its launcher");
    }
}
