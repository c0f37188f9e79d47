//! The commands on ports, as a person runs them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

fn barewire(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barewire"));
    command.args(args.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(args: &str) -> Output {
    barewire(args).output().expect("barewire starts")
}

/// The object that a command prints when it succeeds.
fn json(args: &str) -> Value {
    let output = run(args);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}: {complaint}");
    let lines: Vec<_> = output.stdout.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 1, "{args}: one object");
    serde_json::from_slice(lines[0]).expect("JSON")
}

const ON_MODEL: &str = "--port model:82599 --ip 10.0.0.1/24";

/// What `/sys` says of network devices, read by another way than the program's: from interfaces to devices, and from groups to members.
#[test]
fn devices_tells_what_sysfs_says() {
    let line = |path: &Path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut interfaces = BTreeMap::<String, Vec<String>>::new();
    for interface in entries("/sys/class/net") {
        let Ok(place) = fs::canonicalize(interface.join("device")) else { continue };
        let device = place.ancestors().find(|place| place.join("vendor").exists() && place.join("class").exists());
        if let Some(device) = device {
            interfaces.entry(name(device)).or_default().push(name(&interface));
        }
    }
    let mut groups = BTreeMap::new();
    for group in entries("/sys/kernel/iommu_groups") {
        for member in entries(group.join("devices").to_str().unwrap()) {
            groups.insert(name(&member), name(&group).parse::<u32>().unwrap());
        }
    }
    let expected: BTreeMap<_, _> = entries("/sys/bus/pci/devices")
        .filter(|device| line(&device.join("class")).unwrap().starts_with("0x02"))
        .map(|device| {
            let address = name(&device);
            let ids = ["vendor", "device"].map(|id| line(&device.join(id)).unwrap().replace("0x", ""));
            let uevent = line(&device.join("uevent")).unwrap();
            let driver = uevent.lines().find_map(|line| line.strip_prefix("DRIVER=")).map(str::to_owned);
            let node = line(&device.join("numa_node")).and_then(|node| node.parse::<u32>().ok());
            let mut interfaces = interfaces.remove(&address).unwrap_or_default();
            interfaces.sort();
            let up = interfaces
                .first()
                .and_then(|interface| line(&Path::new("/sys/class/net").join(interface).join("carrier")));
            let group = groups.get(&address).copied();
            let told = serde_json::json!([ids.join(":"), driver, interfaces, group, node, up.map(|up| up == "1")]);
            (address, told)
        })
        .collect();
    let told = json("devices --json");
    let told = told["devices"].as_array().unwrap().iter().map(|device| {
        let fields = ["ids", "driver", "interfaces", "iommu_group", "numa_node"].map(|field| device[field].clone());
        let told = fields.into_iter().chain([device["link"]["up"].clone()]).collect();
        (device["address"].as_str().unwrap().to_owned(), Value::Array(told))
    });
    assert_eq!(told.collect::<BTreeMap<_, _>>(), expected);
}

/// One line that names the fault, and status 2: nothing was tried.
#[test]
fn bad_input_ends_in_one_line_and_status_2() {
    let absent = "0000:ff:1f.7";
    let table = [
        (format!("bind {absent}"), "no PCI device at 0000:ff:1f.7; `barewire devices`"),
        (format!("unbind {absent}"), "no PCI device at 0000:ff:1f.7"),
        (format!("ping --port vfio:{absent} --ip 10.0.0.1/24 10.0.0.2"), "no PCI device at 0000:ff:1f.7"),
        (format!("ping {ON_MODEL} 239.1.1.1"), "must be one host's address"),
        (format!("ping {ON_MODEL} 10.0.0.2 --size 2000"), "--size takes"),
        (format!("listen {ON_MODEL} 0"), "address or port cannot be used"),
        (format!("connect {ON_MODEL} 10.0.0.2:7000 --size 0"), "--size takes"),
        (format!("multicast send {ON_MODEL} 10.0.0.9:5000"), "must be a multicast address"),
        (format!("multicast receive {ON_MODEL} 239.1.1.1:5000 --count 0"), "--count takes"),
        ("ping --port tap:a-name-of-20-letters --ip 10.0.0.1/24".to_owned(), "another name of 1 to 15 letters"),
        ("ping --port model:82599?rxd=100 --ip 10.0.0.1/24 10.0.0.2".to_owned(), "a power of two"),
    ];
    for (args, said) in table {
        let output = run(&args);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {complaint}");
        assert!(complaint.contains(said) && complaint.lines().count() == 1, "{args}: {complaint}");
    }
    for args in [
        "ping --port tcp:1 --ip 10.0.0.1/24",
        "ping --port tap: --ip 10.0.0.1/24",
        "ping --port model:82599 --ip 10.0.0.1",
        "bind 3",
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args}");
    }
}

#[test]
fn ping_is_answered_under_every_idle_strategy_and_wake_up_is_measured() {
    for idle in ["spin", "yield", "pause", "sleep"] {
        let report = json(&format!("ping {ON_MODEL} 10.0.0.2 --count 10 --interval-ms 5 --idle {idle} --json"));
        assert_eq!((&report["sent"], &report["received"], &report["lost"]), (&10.into(), &10.into(), &0.into()));
        assert_eq!(report["idle"], idle);
        assert_eq!(report["wake_up_ns"]["count"], 100);
        assert!(report["round_trip_ns"]["p50"].as_u64().unwrap() > 0);
    }
    let output = run(&format!("ping {ON_MODEL} 10.0.9.2 --count 2 --interval-ms 1"));
    assert_eq!(output.status.code(), Some(1), "nobody is there");
    assert!(String::from_utf8_lossy(&output.stderr).contains("10.0.9.2: no answer to 2 requests"));
}

#[test]
fn tcp_carries_the_same_bytes_each_way_and_back() {
    const BYTES: u64 = 3_000_001;
    let near_sends = [
        format!("connect {ON_MODEL} 10.0.0.2:7000 --role source --bytes {BYTES} --json"),
        format!("listen {ON_MODEL} 7000 --role source --bytes {BYTES} --json"),
    ];
    for args in near_sends {
        let report = json(&args);
        assert_eq!((&report["bytes_sent"], &report["far"]["bytes_received"]), (&BYTES.into(), &BYTES.into()), "{args}");
        assert_eq!(report["sha256_sent"], report["far"]["sha256_received"], "{args}");
    }
    let report = json(&format!("listen {ON_MODEL} 7000 --role sink --bytes {BYTES} --idle pause --json"));
    assert_eq!(report["sha256_received"], report["far"]["sha256_sent"]);
    assert_eq!(report["bytes_received"], BYTES);
    let report = json(&format!("connect {ON_MODEL} 10.0.0.2:7000 --size 100 --bytes 20050 --json"));
    assert_eq!(report["round_trip_ns"]["count"], 201, "the last message is half as long");
    assert_eq!((&report["sha256_sent"], report["bytes_received"].as_u64()), (&report["sha256_received"], Some(20_050)));
}

#[test]
fn connection_that_nobody_takes_ends_with_status_1() {
    let output = run("connect --port model:82599 --ip 10.0.0.1/24 10.0.0.2:7000 --seconds 1 --role sink --bytes 0");
    assert!(output.status.success(), "an empty stream is a stream");
    let output = run(&format!("listen {ON_MODEL} 7000 --seconds 0"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended before a connection was there"));
}

#[test]
fn multicast_counts_every_datagram_and_reports_membership() {
    let args =
        "multicast receive --port model:82599?rxd=4096 --ip 10.0.0.1/24 239.1.1.1:5000 --count 2000 --rate 4000 --json";
    let report = json(args);
    let counts =
        ["received", "missing", "gaps", "late", "duplicates", "strange"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [2000, 0, 0, 0, 0, 0]);
    assert_eq!(report["latency_ns"]["count"], 2000);
    assert_eq!(report["frames"]["igmp_sent"], 2, "a report and a leave");
}

#[test]
fn signals_end_a_command_in_order() {
    for signal in ["INT", "TERM"] {
        let answering = barewire(&format!("ping {ON_MODEL} --count 1 --json"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("barewire starts");
        // Past the measurement of wake-ups and into the loop.
        std::thread::sleep(Duration::from_millis(1500));
        let asked = Command::new("kill").args([format!("-{signal}"), answering.id().to_string()]).status();
        assert!(asked.expect("kill runs").success(), "it had ended before");
        let output = answering.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{:?}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report all the same");
        assert_eq!(report["far"]["received"], 1);
    }
}
