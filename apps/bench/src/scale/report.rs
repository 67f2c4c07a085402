//! The report as data: what was measured, how, on which machine, and the verdict. The JSON file is these types, field by field.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::scale::axis::{Axis, AxisKind};
use crate::scale::capacity::Capacity;
use crate::scale::objective::Objective;
use crate::scale::run::Run;
use crate::scale::verdict::{Measurements, Verdict, judge};

/// Name and version of the JSON's shape: it changes when a reader of an older file would read it wrongly.
pub(crate) const FORMAT: &str = "shoal-scale/1";
/// Largest file that is read: a report of a long run has a few megabytes.
const BYTES_MAX: u64 = 256 << 20;

/// Everything that was measured, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Experiment {
    /// Name of what was measured, such as `session` or an address.
    pub(crate) subject: String,
    /// Methods that were called, each with its share if there are several.
    pub(crate) methods: Vec<String>,
    /// Command that repeats it.
    pub(crate) command: String,
    /// Time at which it began, RFC 3339.
    pub(crate) begun: String,
    /// Seconds that it took.
    pub(crate) seconds: f64,
    pub(crate) machine: Machine,
    pub(crate) objective: Objective,
    /// Runs of a single user: one caller, who makes the next call when the last one is answered.
    pub(crate) single: Vec<Run>,
    pub(crate) capacity: Option<Capacity>,
    pub(crate) axes: Vec<Axis>,
    /// Sentences that belong to the figures.
    pub(crate) notes: Vec<String>,
    /// True if somebody ended it before its time: what is here was measured until then.
    pub(crate) ended_early: bool,
}

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Name and version of this shape.
    pub(crate) format: String,
    /// Version of Shoal.
    pub(crate) version: String,
    pub(crate) verdict: Verdict,
    pub(crate) experiment: Experiment,
}

impl Report {
    /// Returns the report of an experiment, with its verdict.
    pub(crate) fn new(experiment: Experiment) -> Report {
        let verdict = judge(&Measurements {
            objective: experiment.objective,
            single: &experiment.single,
            axes: &experiment.axes,
            cores: experiment.machine.cores,
            doubts: &experiment.machine.doubts(),
        });
        Report {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            verdict,
            experiment,
        }
    }

    /// Returns an axis, if it was measured.
    pub(crate) fn axis(&self, kind: AxisKind) -> Option<&Axis> {
        self.experiment.axes.iter().find(|axis| axis.kind == kind)
    }

    /// Returns the JSON file's text.
    ///
    /// # Errors
    /// When a figure is not a number that JSON has.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }

    /// Reads a report from a file.
    ///
    /// # Errors
    /// When it is not one of these: another kind of file, or another version.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
        let read = || -> anyhow::Result<Report> {
            let bytes = std::fs::metadata(path)?.len();
            ensure!(bytes <= BYTES_MAX, "it has {bytes} bytes, and no report has more than {BYTES_MAX}");
            Report::parse(&std::fs::read_to_string(path)?)
        };
        read().with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Report> {
        /// The one field that all versions have.
        #[derive(Deserialize)]
        struct Header {
            format: Option<String>,
        }
        let header: Header = serde_json::from_str(text)
            .context("it is no JSON object: give the file that `shoal bench scale --json` wrote")?;
        let format = header
            .format
            .context("it has no `format`: give the file that `shoal bench scale --json` wrote")?;
        ensure!(
            format == FORMAT,
            "its format is `{format}`, and this program reads `{FORMAT}`: measure again with this version of shoal"
        );
        serde_json::from_str(text).with_context(|| format!("it says `{FORMAT}`, but a field is wrong"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
