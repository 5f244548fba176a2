//! In which of two formats a scrape is answered.
//!
//! OpenMetrics 1.0 where it is asked for, as Prometheus servers do; else the older text format (version 0.0.4), which everything
//! reads, `promtool check metrics` among it.

use std::fmt::Write as _;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
    Text,
}

impl Format {
    /// The one that a request's `Accept` header prefers; of equal ones, OpenMetrics.
    pub fn accepted(accept: &str) -> Self {
        let quality = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let given = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let quality = given.map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
            (kind, quality)
        };
        let ranges: Vec<(String, f32)> = accept.split(',').map(quality).collect();
        let best = |kind: &str| {
            let of_kind = ranges.iter().filter(|(range, _)| range == kind);
            of_kind.map(|(_, quality)| *quality).fold(0.0, f32::max)
        };
        let open = best("application/openmetrics-text");
        if open > 0.0 && open >= best("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What OpenMetrics text says, in this format.
    pub fn of_open_metrics(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Text => classic(&text),
        }
    }
}

/// There a counter's family has the name of its samples, `_total` included, an info is a gauge, and there are neither units nor an end.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // A family's help comes before its type, which decides about its name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (ending, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                // Quotes are escaped in OpenMetrics alone.
                let help = help.replace("\\\"", "\"");
                let _ = writeln!(text, "# HELP {name}{ending} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{ending} {kind}");
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it_and_all_others_the_older_text() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0", Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, */*;q=0.8", Format::Text),
            ("text/plain; version=0.0.4", Format::Text),
            (
                "application/openmetrics-text;q=0.2, text/plain;q=0.9",
                Format::Text,
            ),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=much", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn the_older_text_names_families_as_their_samples() {
        let open_metrics = "# HELP a_things_bytes Things of \\\"a\\\".\n# TYPE a_things_bytes counter\n# UNIT a_things_bytes bytes\n\
                            a_things_bytes_total{b=\"# TYPE x y\"} 1\n\
                            # HELP a_build Build.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
                            # HELP a_fill Fill.\n# TYPE a_fill gauge\na_fill 2\n# EOF\n";
        assert_eq!(
            classic(open_metrics),
            "# HELP a_things_bytes_total Things of \"a\".\n# TYPE a_things_bytes_total counter\n\
             a_things_bytes_total{b=\"# TYPE x y\"} 1\n\
             # HELP a_build_info Build.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
             # HELP a_fill Fill.\n# TYPE a_fill gauge\na_fill 2\n"
        );
    }
}
