//! An axis of the experiment: levels of one number, callers of one clone or clones, with their repetitions and the analysis.

use serde::{Deserialize, Serialize};

use crate::scale::run::Run;
use crate::scale::usl::{Analysis, Observations, analyse};

/// The number that grows along an axis. The two must not be mixed: each finds another cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AxisKind {
    /// Callers at once, at one clone: finds what its calls wait for within it.
    Concurrency,
    /// Clones, with a load that grows alike: finds what the clones share.
    Clones,
}

impl AxisKind {
    /// Returns what N counts, in the plural.
    pub(crate) fn counts(self) -> &'static str {
        match self {
            AxisKind::Concurrency => "callers",
            AxisKind::Clones => "clones",
        }
    }
}

/// A level of an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AxisLevel {
    pub(crate) n: u32,
    pub(crate) repetitions: Vec<Run>,
}

impl AxisLevel {
    /// Returns the repetitions as one run: none without repetitions.
    pub(crate) fn merged(&self) -> Option<Run> {
        Run::merged(&self.repetitions)
    }

    /// Returns whether `holds` for more than half of the repetitions.
    pub(crate) fn mostly(&self, holds: impl Fn(&Run) -> bool) -> bool {
        let count = self.repetitions.iter().filter(|run| holds(run)).count();
        2 * count > self.repetitions.len()
    }
}

/// Levels of one number, and what the law says of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Axis {
    pub(crate) kind: AxisKind,
    /// Sentences that say what the experiment simulates and what it does not.
    pub(crate) simulates: Vec<String>,
    pub(crate) levels: Vec<AxisLevel>,
    pub(crate) analysis: Option<Analysis>,
    /// Reason why there is no analysis.
    pub(crate) not_analysed: Option<String>,
}

impl Axis {
    /// Returns the axis with its analysis, whose intervals depend on `seed`.
    pub(crate) fn new(kind: AxisKind, simulates: Vec<String>, mut levels: Vec<AxisLevel>, seed: u64) -> Axis {
        levels.sort_by_key(|level| level.n);
        let observations: Vec<Observations> = levels
            .iter()
            .map(|level| Observations {
                n: level.n,
                throughput: level.repetitions.iter().map(Run::achieved).collect(),
            })
            .collect();
        let (analysis, not_analysed) = match analyse(&observations, seed) {
            Ok(analysis) => (Some(analysis), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Axis { kind, simulates, levels, analysis, not_analysed }
    }
}
