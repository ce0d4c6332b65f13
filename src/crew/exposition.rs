//! The text formats of metrics: that of Prometheus, version 0.0.4, and OpenMetrics 1.0.
//!
//! Bytes out, nothing else: no number is looked up here.

use std::fmt::Write;

use super::measures::Distribution;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// The text format of Prometheus.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl TextFormat {
    /// The format for a client whose fields `Accept` have these values: the one with the larger weight (RFC 9110
    /// 12.5.1), and OpenMetrics only where it is named.
    pub fn of<'a>(accept: impl Iterator<Item = &'a [u8]>) -> TextFormat {
        let mut weights = (0.0_f32, 0.0_f32);
        for value in accept {
            for member in value.split(|&byte| byte == b',') {
                let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
                let media = parts.next().unwrap_or_default();
                let mut weight = 1.0;
                let mut is_known = true;
                for part in parts {
                    let Some((name, value)) = std::str::from_utf8(part).ok().and_then(|part| part.split_once('='))
                    else {
                        continue;
                    };
                    match name.trim().to_ascii_lowercase().as_str() {
                        "q" => weight = value.trim().parse().unwrap_or(0.0),
                        "version" => is_known = matches!(value.trim().trim_matches('"'), "1.0.0" | "0.0.4"),
                        _ => {}
                    }
                }
                if media.eq_ignore_ascii_case(b"application/openmetrics-text") && is_known {
                    weights.0 = weights.0.max(weight);
                } else if [&b"text/plain"[..], b"text/*", b"*/*"].iter().any(|one| media.eq_ignore_ascii_case(one)) {
                    weights.1 = weights.1.max(weight);
                }
            }
        }
        if weights.0 > 0.0 && weights.0 >= weights.1 { TextFormat::OpenMetrics } else { TextFormat::Prometheus }
    }

    /// The value of Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows. Its samples end in `_total`.
    Counter,
    /// A number of now.
    Gauge,
    /// A distribution, in buckets.
    Histogram,
    /// Labels alone. Its sample ends in `_info`.
    Info,
}

impl MetricKind {
    /// The name of the kind, as documents have it.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::Info => "info",
        }
    }
}

/// A metric with all its labels.
#[derive(Debug)]
pub struct Family {
    /// The name, without the end that the samples of a counter or of an information have.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The unit, with which the name ends; empty for a number of things.
    pub unit: &'static str,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The meaning, in one sentence.
    pub help: &'static str,
}

impl Family {
    /// The end of the names of the samples, apart from those of a histogram.
    pub fn end(&self) -> &'static str {
        match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        }
    }
}

/// The text of a scrape.
pub struct Exposition {
    format: TextFormat,
    text: String,
}

impl Exposition {
    /// An empty text.
    pub fn new(format: TextFormat) -> Exposition {
        Exposition { format, text: String::with_capacity(16 * 1024) }
    }

    /// Begins a family. Its samples follow.
    pub fn begin(&mut self, family: &Family) {
        let Family { name, kind, unit, help, .. } = family;
        let text = &mut self.text;
        // Writing to a String cannot fail.
        match self.format {
            TextFormat::Prometheus => {
                let kind = if *kind == MetricKind::Info { MetricKind::Gauge } else { *kind };
                let _ = write!(text, "# HELP {name}{0} {help}\n# TYPE {name}{0} {1}\n", family.end(), kind.name());
            }
            TextFormat::OpenMetrics => {
                let _ = writeln!(text, "# TYPE {name} {}", kind.name());
                if !unit.is_empty() {
                    let _ = writeln!(text, "# UNIT {name} {unit}");
                }
                let _ = writeln!(text, "# HELP {name} {help}");
            }
        }
    }

    /// Adds a family with one sample for each set of values of its labels.
    pub fn family<'a>(&mut self, family: &Family, samples: impl IntoIterator<Item = (&'a [&'a str], f64)>) {
        self.begin(family);
        for (values, number) in samples {
            self.sample(family, values, number);
        }
    }

    /// Adds a family without labels.
    pub fn single(&mut self, family: &Family, number: f64) {
        self.begin(family);
        self.sample(family, &[], number);
    }

    /// Adds a sample of the family that has begun.
    pub fn sample(&mut self, family: &Family, values: &[&str], number: f64) {
        let _ = write!(self.text, "{}{}", family.name, family.end());
        self.labels(family.labels, values, None);
        self.number(number);
    }

    /// Adds a histogram to the family that has begun.
    pub fn histogram(&mut self, family: &Family, values: &[&str], bounds: &[f64], distribution: &Distribution) {
        let mut count = 0_u64;
        for (bound, more) in bounds.iter().copied().chain([f64::INFINITY]).zip(distribution.counts) {
            count = count.wrapping_add(more);
            let _ = write!(self.text, "{}_bucket", family.name);
            self.labels(family.labels, values, Some(bound));
            self.number(count as f64);
        }
        let _ = write!(self.text, "{}_count", family.name);
        self.labels(family.labels, values, None);
        self.number(count as f64);
        let _ = write!(self.text, "{}_sum", family.name);
        self.labels(family.labels, values, None);
        let _ = writeln!(self.text, " {:?}", distribution.sum_seconds());
    }

    fn labels(&mut self, names: &[&str], values: &[&str], bound: Option<f64>) {
        let mut separator = '{';
        for (name, value) in names.iter().zip(values) {
            let _ = write!(self.text, "{separator}{name}=\"");
            for letter in value.chars() {
                match letter {
                    '"' | '\\' => self.text.extend(['\\', letter]),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            // The same text in both formats, so that a change of the format does not change the series.
            let _ = if bound.is_infinite() {
                write!(self.text, "{separator}le=\"+Inf\"")
            } else {
                write!(self.text, "{separator}le=\"{bound:?}\"")
            };
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }

    fn number(&mut self, number: f64) {
        let is_whole = number.fract() == 0.0 && number.abs() < 1e15;
        let _ = if is_whole { writeln!(self.text, " {number}") } else { writeln!(self.text, " {number:?}") };
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == TextFormat::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Family = Family {
        name: "times_seconds",
        kind: MetricKind::Histogram,
        unit: "seconds",
        labels: &["kind"],
        help: "Times.",
    };

    fn chosen(accept: &[&str]) -> TextFormat {
        TextFormat::of(accept.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn the_format_is_the_one_with_the_larger_weight() {
        use TextFormat::{OpenMetrics, Prometheus};
        // The fields of Prometheus 2 and 3.
        let second = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let third = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2";
        let cases: [(&[&str], TextFormat); 10] = [
            (&[], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/plain"], Prometheus),
            (&[second], OpenMetrics),
            (&[third], OpenMetrics),
            (&["Application/OpenMetrics-Text; version=\"1.0.0\""], OpenMetrics),
            (&["text/plain", "application/openmetrics-text;q=0.9"], Prometheus),
            (&["application/openmetrics-text;q=0"], Prometheus),
            (&["application/openmetrics-text;version=9.9.9"], Prometheus),
            (&["application/openmetrics-text;q=x, ;;=,\u{ff}"], Prometheus),
        ];
        for (accept, expected) in cases {
            assert_eq!(chosen(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_numbers_have_one_form() {
        let mut distribution = Distribution { sum_nanoseconds: 1_500_000_000, ..Distribution::default() };
        (distribution.counts[0], distribution.counts[14]) = (2, 1);
        let mut out = Exposition::new(TextFormat::OpenMetrics);
        out.begin(&TIMES);
        out.histogram(&TIMES, &["a\"b\\\n"], &[1.0, 2.5], &distribution);
        let text = out.finish();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..3],
            ["# TYPE times_seconds histogram", "# UNIT times_seconds seconds", "# HELP times_seconds Times."]
        );
        assert_eq!(lines[3], r#"times_seconds_bucket{kind="a\"b\\\n",le="1.0"} 2"#);
        assert_eq!(lines[5], r#"times_seconds_bucket{kind="a\"b\\\n",le="+Inf"} 2"#);
        assert_eq!(lines[7..], [r#"times_seconds_sum{kind="a\"b\\\n"} 1.5"#, "# EOF"]);
    }
}
