//! `matrix` and `explain` are asked the same questions and must not contradict each other.

use std::collections::BTreeMap;

use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    let output = super::palisade(arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn every_row_of_the_matrix_is_what_explain_says() {
    let ports = ["8080/TCP", "9100/TCP", "53/UDP", "ICMP"];
    let mut arguments = vec!["matrix", "--from", "examples/shop", "-o", "json"];
    for port in ports {
        arguments.extend(["--port", port]);
    }
    let matrix = json(&arguments);
    let text = |row: &Value, key: &str| {
        row[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} in {row}"))
            .to_string()
    };
    let mut rows: BTreeMap<[String; 3], Vec<[String; 4]>> = BTreeMap::new();
    for row in matrix.as_array().expect("an array") {
        let mut keys: Vec<&String> = row.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(
            keys,
            ["egress", "family", "from", "ingress", "port", "to", "verdict"]
        );
        rows.entry(["from", "to", "port"].map(|key| text(row, key)))
            .or_default()
            .push(["family", "egress", "ingress", "verdict"].map(|key| text(row, key)));
    }
    // Seven pods have addresses and policies; all of them have both families.
    assert_eq!(rows.len(), 7 * 6 * ports.len());
    let mut verdicts = BTreeMap::<String, usize>::new();
    for ([from, to, port], expected) in &rows {
        let explained = json(&["explain", "--from", "examples/shop", "-o", "json", from, to, port]);
        let flows = explained["flows"].as_array().expect("flows");
        let found: Vec<[String; 4]> = (flows.iter())
            .map(|flow| {
                [
                    text(flow, "family"),
                    text(&flow["egress"], "verdict"),
                    text(&flow["ingress"], "verdict"),
                    text(flow, "verdict"),
                ]
            })
            .collect();
        assert_eq!(found, *expected, "{from} {to} {port}");
        for [_, egress, ingress, _] in found {
            *verdicts.entry(format!("{egress} {ingress}")).or_default() += 1;
        }
    }
    // The example would prove little if it did not hold every combination.
    assert_eq!(verdicts.len(), 4, "{verdicts:?}");
}
