//! Log lines, for people or for machines, with the trace they belong to.

use std::fmt;

use opentelemetry::trace::TraceContextExt as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::current_call;

/// The form of log lines.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Pretty,
    /// A JSON object on each line.
    Json,
}

/// Writes events; spans are shown by their trace id only. A warning or an error that is logged during a call names its method and
/// its clone.
pub(crate) struct Logs {
    format: LogFormat,
}

impl Logs {
    pub(crate) fn new(format: LogFormat) -> Self {
        Self { format }
    }
}

impl<S, N> FormatEvent<S, N> for Logs
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let context = opentelemetry::Context::current();
        let span = context.span();
        let trace = span.span_context().is_valid().then(|| span.span_context().trace_id());
        let meta = event.metadata();
        // An access line says itself which trace its call was part of.
        let trace = trace.filter(|_| !fields.has("trace_id"));
        if *meta.level() <= Level::WARN {
            current_call::show(|method| {
                fields.add_missing("method", method.path().trim_start_matches('/'));
                fields.add_missing("clone", method.served_by().1);
            });
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        match self.format {
            LogFormat::Pretty => {
                write!(out, "{time} {:>5} {}: {}", meta.level(), meta.target(), fields.message)?;
                for (name, value) in &fields.others {
                    write!(out, " {name}={value}")?;
                }
                if let Some(trace) = trace {
                    write!(out, " trace_id={trace}")?;
                }
                writeln!(out)
            }
            LogFormat::Json => {
                write!(out, "{{\"time\":\"{time}\",\"level\":\"{}\",\"target\":", meta.level())?;
                json(&mut out, meta.target())?;
                out.write_str(",\"message\":")?;
                json(&mut out, &fields.message)?;
                for (name, value) in &fields.others {
                    out.write_char(',')?;
                    json(&mut out, name)?;
                    out.write_char(':')?;
                    json(&mut out, value)?;
                }
                if let Some(trace) = trace {
                    write!(out, ",\"trace_id\":\"{trace}\"")?;
                }
                writeln!(out, "}}")
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl Fields {
    fn has(&self, name: &str) -> bool {
        self.others.iter().any(|(other, _)| *other == name)
    }

    fn add_missing(&mut self, name: &'static str, value: &str) {
        if !self.has(name) {
            self.others.push((name, value.to_owned()));
        }
    }

    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.others.push((field.name(), value));
        }
    }
}

fn json(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32)?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}
