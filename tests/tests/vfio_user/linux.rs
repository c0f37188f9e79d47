//! The independent witness: Linux's own ixgbe, written for the silicon, on two of our models in a guest.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use barewire_tests::guest::{Guest, qemu};
use barewire_tests::models::{LIMIT, Models};
use barewire_tests::skip;

barewire_tests::rows! {
    "82599 model":
    linux_6_1_takes_the_model_for_silicon
    linux_6_12_takes_the_model_for_silicon
}

/// Guests one after another: each has a processor to emulate.
static ALONE: Mutex<()> = Mutex::new(());

fn witness(linux: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(reason) = qemu() {
        return skip(&format!("Linux {linux}'s ixgbe on the 82599 model"), reason);
    }
    let mut models = Models::start(&["a", "b"], &[]);
    let mut guest = Guest::new(linux, Duration::from_secs(400)).file("/witness.sh", include_str!("witness.sh"));
    for socket in ["a", "b"] {
        guest = guest.nic(&format!("vfio-user:{}", models.path(socket).display()));
    }
    let output = guest.run("sh /witness.sh");
    assert_eq!(output.status, 0, "{}\n{}", output.stdout, output.stderr);
    assert_eq!(models.process.terminate(LIMIT), Some(0));
}

fn linux_6_1_takes_the_model_for_silicon() {
    witness("6.1");
}

fn linux_6_12_takes_the_model_for_silicon() {
    witness("6.12");
}
