//! What a measurement found: in, figures with their limits; out, a table, a JSON file, and a failure where a limit is
//! not kept.

use std::time::Duration;

use serde_json::{Value, json};

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Of interest only.
    None,
    AtMost(f64),
    AtLeast(f64),
}

#[must_use = "finish() judges it"]
pub struct Report {
    name: &'static str,
    figures: Vec<Figure>,
}

struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    limit: Limit,
}

impl Figure {
    fn kept(&self) -> bool {
        match self.limit {
            Limit::None => true,
            Limit::AtMost(most) => self.value <= most,
            Limit::AtLeast(least) => self.value >= least,
        }
    }
}

impl Report {
    /// `name` names the file.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            figures: Vec::new(),
        }
    }

    /// Counts stay exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    pub fn count(&mut self, what: impl Into<String>, value: u64, limit: Limit) {
        self.figure(what, value as f64, "", limit);
    }

    pub fn figure(&mut self, what: impl Into<String>, value: f64, unit: &'static str, limit: Limit) {
        self.figures.push(Figure {
            what: what.into(),
            value,
            unit,
            limit,
        });
    }

    /// Median, 99th percentile and maximum, in ms; the limits are of the first two.
    pub fn durations(&mut self, what: &str, samples: &mut [Duration], p50: Limit, p99: Limit) {
        assert!(!samples.is_empty(), "{what}: nothing was measured");
        samples.sort_unstable();
        let ms = |rank: usize| samples[rank.min(samples.len() - 1)].as_secs_f64() * 1000.0;
        let found = [
            ("p50", ms(samples.len() / 2), p50),
            ("p99", ms(samples.len() * 99 / 100), p99),
            ("max", ms(samples.len()), Limit::None),
        ];
        for (rank, value, limit) in found {
            self.figure(format!("{what}, {rank}"), value, "ms", limit);
        }
    }

    /// Prints and writes it. Panics where a limit is not kept.
    pub fn finish(self) {
        println!("\n{}", self.name);
        for figure in &self.figures {
            let limit = match figure.limit {
                Limit::None => String::new(),
                Limit::AtMost(most) => format!("≤ {most}"),
                Limit::AtLeast(least) => format!("≥ {least}"),
            };
            let failed = if figure.kept() { "" } else { "  NOT KEPT" };
            let value = if figure.value.fract() == 0.0 {
                format!("{}", figure.value)
            } else {
                format!("{:.3}", figure.value)
            };
            println!(
                "  {:<58} {value:>12} {:<6} {limit}{failed}",
                figure.what, figure.unit
            );
        }
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                let limit = match figure.limit {
                    Limit::None => Value::Null,
                    Limit::AtMost(most) => json!({ "at_most": most }),
                    Limit::AtLeast(least) => json!({ "at_least": least }),
                };
                json!({ "what": figure.what, "value": figure.value, "unit": figure.unit, "limit": limit, "kept": figure.kept() })
            })
            .collect();
        let path = format!("{}/target/e2e.{}.json", env!("CARGO_MANIFEST_DIR"), self.name);
        let text = serde_json::to_string_pretty(&json!({ "name": self.name, "figures": figures }));
        std::fs::write(&path, text.expect("it is JSON")).unwrap_or_else(|e| panic!("{path}: {e}"));
        let failed: Vec<&str> = self
            .figures
            .iter()
            .filter(|f| !f.kept())
            .map(|f| f.what.as_str())
            .collect();
        assert!(
            failed.is_empty(),
            "{}: not kept: {}",
            self.name,
            failed.join("; ")
        );
    }
}

/// A count that the environment may set.
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
}
