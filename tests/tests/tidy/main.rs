//! Facts about the source that are either so or not. Each list of exceptions stands here, once, and each check is shown
//! to fail.
#![forbid(unsafe_code)]

mod licences;
mod requirements;
mod scan;

use proc_macro2::Delimiter;
use scan::{At, File, files, visit};

/// The only files with `unsafe`: memory shared with devices, registers, the time stamp counter, cache flushing, an interface
/// in C, and instruments of proof.
const UNSAFE: &[&str] = &[
    "apps/src/bench/cold.rs",
    "driver/src/clock.rs",
    "driver/src/dma.rs",
    "driver/src/e1000/rx.rs",
    "driver/src/frame.rs",
    "driver/src/huge.rs",
    "driver/src/ixgbe/rx.rs",
    "driver/src/mmio.rs",
    "driver/src/pool.rs",
    "driver/src/tap/kernel.rs",
    "driver/src/virtio/rx.rs",
    "driver/src/vfio_kernel.rs",
    "tests/packetdrill/src/interface.rs",
    "tests/src/proof/alloc.rs",
    "tests/src/proof/syscalls.rs",
];

/// The only files that read a real clock: the clock itself, bounded waits for hardware and for QEMU, and how long a run took on the
/// wall.
const REAL_CLOCKS: &[&str] = &[
    "driver/src/clock.rs",
    "driver/src/mmio.rs",
    "driver/src/bus/vfio_user/socket.rs",
    "apps/src/market/processes/supervisor.rs",
    "apps/src/market/run.rs",
    "qemu/src/qtest/mod.rs",
];

/// What runs between a frame's arrival and the doorbell, with the functions in it that do not: control path, jumbo
/// frames, IGMP, and the publisher's side of the feed; and one that reads fixed places of an array through helpers, which
/// the panic proof sees through.
const HOT: &[(&str, &[&str])] = &[
    ("driver/src/checksum.rs", &[]),
    ("driver/src/e1000/desc.rs", &[]),
    ("driver/src/e1000/rx.rs", &[]),
    ("driver/src/e1000/tx.rs", &[]),
    ("driver/src/frame.rs", &[]),
    ("driver/src/ixgbe/desc.rs", &[]),
    ("driver/src/ixgbe/rx.rs", &[]),
    ("driver/src/ixgbe/tx.rs", &[]),
    ("driver/src/pool.rs", &[]),
    ("driver/src/ring.rs", &[]),
    ("driver/src/soft/rx.rs", &[]),
    ("driver/src/soft/tx.rs", &[]),
    ("driver/src/virtio/desc.rs", &[]),
    ("driver/src/virtio/rx.rs", &[]),
    ("driver/src/virtio/split.rs", &[]),
    ("driver/src/virtio/tx.rs", &[]),
    ("netstack/src/datagram.rs", &[]),
    ("netstack/src/demux.rs", &["join", "rebuild"]),
    ("netstack/src/neighbours/arp.rs", &[]),
    ("netstack/src/neighbours/mod.rs", &[]),
    ("netstack/src/neighbours/routes.rs", &[]),
    ("netstack/src/stack.rs", &["receive_chained", "send_igmp"]),
    ("netstack/src/wire.rs", &[]),
    ("apps/src/feed/arbiter.rs", &[]),
    ("apps/src/feed/book/ahead.rs", &[]),
    ("apps/src/feed/book/ladder.rs", &[]),
    ("apps/src/feed/book/mod.rs", &[]),
    ("apps/src/feed/book/slab.rs", &[]),
    ("apps/src/feed/itch.rs", &[]),
    ("apps/src/feed/moldudp64.rs", &["end"]),
    ("apps/src/feed/window.rs", &[]),
    ("apps/src/order/ouch/appendage.rs", &[]),
    ("apps/src/order/ouch/mod.rs", &[]),
    ("apps/src/trade/earlier.rs", &[]),
    ("apps/src/trade/entry.rs", &[]),
    ("apps/src/trade/limits.rs", &[]),
    ("apps/src/trade/link.rs", &[]),
    ("apps/src/trade/orders.rs", &[]),
    ("apps/src/trade/packet.rs", &[]),
    ("apps/src/trade/risk.rs", &[]),
    ("apps/src/trade/strategy.rs", &[]),
    ("apps/src/trade/trader.rs", &[]),
    ("apps/src/trade/view.rs", &[]),
];

/// Of our crates, which may depend on which.
const IMPORTS: &[(&str, &[&str])] = &[
    ("barewire-driver", &[]),
    ("barewire-netstack", &["barewire-driver"]),
    ("barewire-models", &["barewire-driver"]),
    ("barewire", &["barewire-driver", "barewire-netstack", "barewire-models"]),
    ("barewire-packetdrill", &["barewire-driver", "barewire-netstack"]),
    ("barewire-tests", &["barewire", "barewire-driver", "barewire-netstack", "barewire-models"]),
];

/// Rooms of `driver` that are one NIC's: for the composition root and tests.
const CONCRETE: &[&str] = &["af_xdp", "e1000", "ixgbe", "mlx5", "virtio"];

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// Lines of `source` on which `offends` says what is wrong.
fn findings<'s>(source: &str, mut offends: impl FnMut(&At<'_>) -> Option<&'s str>) -> Vec<String> {
    let mut found = Vec::new();
    visit(source, |at| {
        if let Some(what) = offends(&at) {
            found.push(format!("{}: {what}", at.line()));
        }
    });
    found
}

/// Fails with every finding of every file, each with its place.
fn assert_none(found: impl IntoIterator<Item = (String, Vec<String>)>) {
    let lines: Vec<_> = found
        .into_iter()
        .flat_map(|(path, found)| found.into_iter().map(move |line| format!("{path}:{line}")))
        .collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// A list of exceptions must not outlive what it excuses.
fn assert_all_used(list: &[&str], used: impl Fn(&str) -> bool) {
    let stale: Vec<_> = list.iter().filter(|path| !used(path)).collect();
    assert!(stale.is_empty(), "these exceptions excuse nothing any more: {stale:?}");
}

fn uses_of_unsafe(source: &str) -> Vec<String> {
    findings(source, |at| at.is(&["unsafe"]).then_some("unsafe belongs in a module that is listed for it"))
}

#[test]
fn unsafe_stays_in_its_modules() {
    let files = files();
    let found = |path: &str| {
        rust(&files).find(|file| file.path == path).is_some_and(|file| !uses_of_unsafe(&file.text).is_empty())
    };
    assert_all_used(UNSAFE, found);
    let others = rust(&files).filter(|file| !UNSAFE.contains(&&*file.path));
    assert_none(others.map(|file| (file.path.clone(), uses_of_unsafe(&file.text))));
}

#[test]
fn unsafe_is_found_where_it_is_planted() {
    assert_eq!(uses_of_unsafe("// unsafe {}\nfn f() -> &'static str { \"unsafe\" }"), [""; 0]);
    assert_eq!(uses_of_unsafe("fn f() {\n    unsafe { g() }\n}").len(), 1);
    assert_eq!(uses_of_unsafe("unsafe impl Send for T {}").len(), 1);
    assert_eq!(uses_of_unsafe("macro_rules! m { () => { unsafe { g() } } }").len(), 1);
}

fn forbids_unsafe(source: &str) -> bool {
    !findings(source, |at| {
        let forbids = at.is(&["#", "!"]) && at.idents_of_group(2) == ["forbid", "unsafe_code"];
        forbids.then_some("forbids")
    })
    .is_empty()
}

/// The modules that a file lies in, itself first: what `forbid` in one of them covers.
fn modules_around(path: &str) -> Vec<String> {
    let mut modules = vec![path.to_owned()];
    let mut directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    while !directory.is_empty() {
        modules.extend(["lib.rs", "mod.rs"].map(|name| format!("{directory}/{name}")));
        modules.push(format!("{directory}.rs"));
        // Every file of src/bin or tests is a crate of its own; a directory there has its root in main.rs.
        modules.push(format!("{directory}/main.rs"));
        directory = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    modules
}

#[test]
fn every_other_module_forbids_unsafe() {
    let files = files();
    let forbidding: Vec<_> = rust(&files).filter(|file| forbids_unsafe(&file.text)).map(|file| &*file.path).collect();
    let with_unsafe_inside = |path: &str| UNSAFE.iter().any(|listed| modules_around(listed).iter().any(|m| m == path));
    let missing: Vec<_> = rust(&files)
        .map(|file| &*file.path)
        .filter(|path| !with_unsafe_inside(path))
        .filter(|path| !modules_around(path).iter().any(|module| forbidding.contains(&&**module)))
        .collect();
    assert!(missing.is_empty(), "#![forbid(unsafe_code)] is missing in {missing:#?}");
}

#[test]
fn forbid_is_told_from_its_absence() {
    assert!(forbids_unsafe("//! Text.\n#![forbid(unsafe_code)]\nfn f() {}"));
    assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n#![deny(unsafe_code)]\nfn f() {}"));
    assert!(modules_around("apps/src/feed/itch.rs").contains(&"apps/src/feed/mod.rs".to_owned()));
    assert!(!modules_around("driver/src/error.rs").contains(&"driver/src/dma.rs".to_owned()));
}

/// `unsafe fn` and `unsafe impl` without a word on safety right above. Clippy sees to blocks.
fn undocumented(source: &str) -> Vec<String> {
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    let is_documented = |line: usize| {
        let above = lines[..line - 1].iter().rev().take_while(|line| line.starts_with("//") || line.starts_with("#["));
        above.into_iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
    };
    let mut in_unsafe_impl = false;
    findings(source, |at| {
        if at.is(&["unsafe", "impl"]) || at.is(&["impl"]) {
            in_unsafe_impl = at.is(&["unsafe"]) || (in_unsafe_impl && at.is(&["impl"]));
        }
        // The functions of an unsafe trait have their contract where the trait is.
        let asked = at.is(&["unsafe", "impl"]) || (at.is(&["unsafe", "fn"]) && !in_unsafe_impl);
        (asked && !is_documented(at.line())).then_some("say what makes it safe: # Safety or SAFETY:")
    })
}

#[test]
fn unsafe_functions_and_impls_say_why_they_are_safe() {
    assert_none(rust(&files()).map(|file| (file.path.clone(), undocumented(&file.text))));
}

#[test]
fn silence_about_safety_is_found() {
    assert_eq!(undocumented("/// Does it.\n///\n/// # Safety\n/// Be kind.\npub unsafe fn f() {}"), [""; 0]);
    assert_eq!(undocumented("// SAFETY: it holds nothing.\nunsafe impl Send for T {}"), [""; 0]);
    assert_eq!(undocumented("/// Does it.\npub unsafe fn f() {}").len(), 1);
    assert_eq!(undocumented("unsafe impl Send for T {}").len(), 1);
}

fn clock_reads(source: &str) -> Vec<String> {
    findings(source, |at| {
        let instant = at.is(&["Instant", ":", ":", "now"]);
        let read = instant || ["SystemTime", "UNIX_EPOCH", "_rdtsc", "__rdtscp"].iter().any(|name| at.is(&[name]));
        read.then_some("a real clock; take the time as a parameter, or as barewire_driver::clock::Clock")
    })
}

#[test]
fn real_clocks_are_read_in_their_places() {
    let files = files();
    let found = |path: &str| {
        rust(&files).find(|file| file.path == path).is_some_and(|file| !clock_reads(&file.text).is_empty())
    };
    assert_all_used(REAL_CLOCKS, found);
    let measuring = |path: &str| path.starts_with("tests/") || path.starts_with("apps/src/bench/");
    let others = rust(&files).filter(|file| !REAL_CLOCKS.contains(&&*file.path) && !measuring(&file.path));
    assert_none(others.map(|file| (file.path.clone(), clock_reads(&file.text))));
}

#[test]
fn planted_clock_is_found() {
    assert_eq!(clock_reads("fn f(now: Instant) {}\n#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }"), [""; 0]);
    for read in ["std::time::Instant::now()", "SystemTime::now()", "unsafe { _rdtsc() }"] {
        assert_eq!(clock_reads(&format!("fn f() {{\n    let t = {read};\n}}")).len(), 1, "{read}");
    }
}

/// What can panic, but for arithmetic and allocation, in functions that are not excepted.
fn ways_to_panic(source: &str, except: &[&str]) -> Vec<String> {
    const MACROS: [&str; 7] = ["panic", "unreachable", "todo", "unimplemented", "assert", "assert_eq", "assert_ne"];
    findings(source, |at| {
        let call = ["unwrap", "expect", "unwrap_err", "expect_err"].iter().any(|name| at.is(&[".", name]))
            && at.is_group(2, Delimiter::Parenthesis);
        let when_compiled = at.is_ahead(-5, &["const", "_", ":"]);
        let checked = MACROS.iter().any(|name| at.is(&[name, "!"])) && !when_compiled;
        let offends =
            (call || checked || at.is_computed_index()) && !except.contains(&at.function) && !at.function.is_empty();
        offends.then_some("hot code must not panic; use get, ?, let-else, or a checked type")
    })
}

#[test]
fn hot_modules_cannot_panic() {
    let files = files();
    let hot: Vec<_> = HOT.iter().map(|(path, _)| *path).collect();
    assert_all_used(&hot, |path| files.iter().any(|file| file.path == path));
    let mut found = Vec::new();
    for (path, except) in HOT {
        let Some(file) = files.iter().find(|file| file.path == *path) else { continue };
        let all = ways_to_panic(&file.text, except).len();
        for name in *except {
            let others: Vec<_> = except.iter().copied().filter(|other| other != name).collect();
            assert!(ways_to_panic(&file.text, &others).len() > all, "{path}: {name} needs no exception any more");
        }
        found.push(((*path).to_owned(), ways_to_panic(&file.text, except)));
    }
    assert_none(found);
}

#[test]
fn planted_panic_is_found_and_what_cannot_panic_is_not() {
    let found =
        |body: &str| ways_to_panic(&format!("fn hot<'a>(x: &'a [u8], i: usize) -> [u8; 2] {{ {body} }}"), &[]).len();
    for body in [
        "x.first().unwrap();",
        "x.first().expect(\"one\");",
        "panic!();",
        "x[i];",
        "&x[i..];",
        "f(x)[i];",
        "x.0[i];",
        "f(x)?[i];",
    ] {
        assert_eq!(found(body), 1, "{body}");
    }
    for body in [
        "x.get(i);",
        "let [a, b] = y;",
        "vec![i];",
        "debug_assert!(i > 0);",
        "y[3];",
        "x.first().unwrap_or(&i);",
        "for [a, b] in z {}",
        "// x[i]",
    ] {
        assert_eq!(found(&format!("{body}\n")), 0, "{body}");
    }
    assert_eq!(ways_to_panic("fn cold() { x[i]; }", &["cold"]), [""; 0]);
    assert_eq!(ways_to_panic("#[cfg(test)]\nmod tests { fn f() { x[i]; } }", &[]), [""; 0]);
}

fn unfinished(source: &str) -> Vec<String> {
    findings(source, |at| {
        ["todo", "unimplemented", "dbg"].iter().any(|name| at.is(&[name, "!"])).then_some("unfinished")
    })
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none(rust(&files()).map(|file| (file.path.clone(), unfinished(&file.text))));
    assert_eq!(unfinished("fn f() {\n    dbg!(1);\n}").len(), 1);
}

/// Lines that name a place on somebody's machine.
fn machine_paths(text: &str) -> Vec<String> {
    // Put together, so that this file does not find itself.
    let places = ["work", "tmp", "home", "root", "Users"].map(|place| ["/", place, "/"].concat());
    let named = |line: &str| {
        places.iter().any(|place| {
            line.match_indices(&**place)
                .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || ".}*".contains(before)))
        })
    };
    text.lines()
        .zip(1..)
        .filter(|(line, _)| named(line))
        .map(|(line, number)| format!("{number}: {}", line.trim()))
        .collect()
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    assert_none(files().into_iter().map(|file| (file.path, machine_paths(&file.text))));
    let planted = ["see /", "home/me/notes"].concat();
    assert_eq!(machine_paths(&planted).len(), 1);
    assert_eq!(machine_paths("docs/tmp/notes and ../home/x"), [""; 0]);
}

/// Our crates that `metadata` says a crate of ours depends on, and may not.
fn wrong_imports(metadata: &serde_json::Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = IMPORTS.iter().find(|(ours, _)| *ours == name) else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let import = dependency["name"].as_str().unwrap_or_default();
            if IMPORTS.iter().any(|(ours, _)| *ours == import) && !allowed.contains(&import) {
                wrong.push(format!("{name} depends on {import}"));
            }
        }
    }
    wrong
}

#[test]
fn crates_import_one_way() {
    let metadata = licences::metadata();
    assert_eq!(wrong_imports(&metadata), [""; 0]);
    let ours = metadata["packages"].as_array().into_iter().flatten().filter(|package| package["source"].is_null());
    let unknown: Vec<_> = ours
        .filter_map(|package| package["name"].as_str())
        .filter(|name| IMPORTS.iter().all(|(known, _)| known != name))
        .collect();
    assert!(unknown.is_empty(), "say above what {unknown:?} may import");
    let dependencies = serde_json::json!([{ "name": "barewire-models" }]);
    let planted = serde_json::json!({ "packages": [{ "name": "barewire-netstack", "dependencies": dependencies }] });
    assert_eq!(wrong_imports(&planted).len(), 1);
}

/// Mentions of one NIC's driver.
fn concrete_nics(source: &str) -> Vec<String> {
    findings(source, |at| {
        let named = at.is(&["barewire_driver", ":", ":"])
            && CONCRETE.iter().any(|nic| {
                at.is(&["barewire_driver", ":", ":", nic]) || at.idents_of_group(3).iter().any(|ident| ident == nic)
            });
        named.then_some("only the composition root names a NIC; be generic over RxQueue and TxQueue")
    })
}

#[test]
fn stack_and_models_name_no_nic() {
    let generic = |path: &str| path.starts_with("netstack/") || path.starts_with("qemu/");
    assert_none(
        rust(&files()).filter(|file| generic(&file.path)).map(|file| (file.path.clone(), concrete_nics(&file.text))),
    );
    assert_eq!(concrete_nics("use barewire_driver::ixgbe::Ixgbe;").len(), 1);
    assert_eq!(concrete_nics("use barewire_driver::{Port, ixgbe::{Rx, Tx}};").len(), 1);
    assert_eq!(concrete_nics("use barewire_driver::{Port, bus::Bus};"), [""; 0]);
}
