//! The licences of everything that is linked in.

use std::process::Command;

use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

/// Licences that go with MIT OR Apache-2.0, by their SPDX names: they ask for a notice at most.
const ALLOWED: [&str; 9] =
    ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// What Cargo knows of the workspace and its dependencies.
pub fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(super::scan::root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn is_allowed(requirement: &LicenseReq) -> bool {
    let id = requirement.license.id();
    requirement.addition.is_none() && id.is_some_and(|id| ALLOWED.contains(&id.name))
}

/// Packages whose licence is not one that is allowed.
fn refused(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let reason = |package: &Value| {
        let Some(licence) = package["license"].as_str() else { return Some("no licence".to_owned()) };
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression) => (!expression.evaluate(is_allowed)).then(|| licence.to_owned()),
            Err(error) => Some(format!("{licence}: {}", error.reason)),
        }
    };
    packages.filter_map(|package| Some(format!("{}: {}", package["name"], reason(package)?))).collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let metadata = metadata();
    assert!(metadata["packages"].as_array().is_some_and(|packages| packages.len() > 20));
    assert_eq!(refused(&metadata), [""; 0]);
}

#[test]
fn other_licences_are_refused() {
    let of = |licence: &str| serde_json::json!({ "packages": [{ "name": "planted", "license": licence }] });
    for licence in
        ["GPL-3.0-only", "MIT AND GPL-2.0-or-later", "no such thing", "Apache-2.0 WITH Classpath-exception-2.0"]
    {
        assert_eq!(refused(&of(licence)).len(), 1, "{licence}");
    }
    assert_eq!(refused(&serde_json::json!({ "packages": [{ "name": "planted", "license": null }] })).len(), 1);
    for licence in
        ["MIT", "MIT/Apache-2.0", "Unlicense OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "GPL-2.0-only OR ISC"]
    {
        assert_eq!(refused(&of(licence)), [""; 0], "{licence}");
    }
}
