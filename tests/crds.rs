//! The CustomResourceDefinitions that users apply are those that the code generates.

use std::path::Path;
use std::process::Command;

use palisade::cluster::crds;

#[test]
fn the_manifest_holds_the_definitions_that_the_code_generates() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/crds.yaml");
    let generated = crds::yaml().unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "{} differs; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

#[test]
fn the_command_prints_them() {
    let output = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .arg("crds")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), crds::yaml().unwrap());
}

#[test]
fn no_definition_has_a_format_that_an_api_server_does_not_know() {
    let yaml = crds::yaml().unwrap();
    let formats: Vec<&str> = yaml
        .lines()
        .filter_map(|line| line.trim().strip_prefix("format: "))
        .filter(|format| !["date-time", "int32", "int64"].contains(format))
        .collect();
    assert_eq!(formats, [""; 0]);
}
