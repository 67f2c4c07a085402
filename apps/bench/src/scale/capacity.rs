//! The search for the highest sustainable load: a geometric ramp, bisection, three confirmations, and what becomes of calls
//! beyond it. Measures by what it is given.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::scale::judgement::Judgement;
use crate::scale::objective::Objective;
use crate::scale::run::Run;

/// Runs that have to be sustainable, one after the other, before a load counts as sustained.
pub(crate) const CONFIRMATIONS: usize = 3;
/// Ratio of an unsustainable load to a sustainable one at which bisection ends.
pub(crate) const PRECISION: f64 = 1.05;
/// Factors of the ramp, up and down.
const RAMP: f64 = 2.0;
/// Steps down from a first load that is too much.
const STEPS_DOWN_MAX: usize = 10;
/// Loads that fail their confirmation before the search gives up, each a step of the precision below the last.
const RETREATS_MAX: usize = 6;
/// Multiples of the sustained load whose goodput is measured.
pub(crate) const BEYOND: [f64; 2] = [1.2, 2.0];
/// Share of the sustained goodput from which a server beyond its capacity sheds what is too much.
pub(crate) const SHEDS_MIN: f64 = 0.8;
/// Share of the sustained goodput below which it collapses.
pub(crate) const COLLAPSES_BELOW: f64 = 0.5;

/// Bounds of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Search {
    pub(crate) objective: Objective,
    /// First load, in calls a second.
    pub(crate) per_second_first: f64,
    /// Load that is not exceeded, beyond it either.
    pub(crate) per_second_max: f64,
    /// Shortest and longest run. Between them a run is as long as the objective's percentile needs.
    pub(crate) seconds_min: f64,
    pub(crate) seconds_max: f64,
}

/// Purpose of a run of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    Ramp,
    Bisection,
    Confirmation,
    Beyond,
}

/// Run that the search asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trial {
    pub(crate) per_second: f64,
    pub(crate) duration: Duration,
    pub(crate) purpose: Purpose,
}

/// Run that the search was given, and its judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tried {
    pub(crate) purpose: Purpose,
    pub(crate) per_second: f64,
    pub(crate) judgement: Judgement,
    pub(crate) run: Run,
}

/// Reason why the search went no higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// The target, which does not sustain more.
    Target,
    /// The generator could not offer more: the target's capacity is at least this.
    Generator,
    /// The search was not allowed more: the target's capacity is at least this.
    SearchBound,
}

/// Behaviour beyond the capacity, at the worse of the multiples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Overload {
    /// Goodput stays: what is too much is refused early, or there was room.
    Sheds,
    /// Part of the goodput is lost.
    Degrades,
    /// More than half of the goodput is lost.
    Collapses,
}

/// Goodput beyond the capacity: OK answers within the objective's time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beyond {
    /// Multiple of the sustained load.
    pub(crate) factor: f64,
    pub(crate) offered_per_second: f64,
    pub(crate) goodput_per_second: f64,
    /// OK answers a second, however late.
    pub(crate) answered_per_second: f64,
    /// Share of the goodput at the sustained load.
    pub(crate) kept: f64,
    /// True if the generator could not offer so much: nothing follows then.
    pub(crate) generator_limited: bool,
}

/// Result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Capacity {
    /// Highest load that was sustained three times: none if not even the lowest was.
    pub(crate) per_second: Option<f64>,
    pub(crate) limit: Limit,
    /// The confirmations of it, merged.
    pub(crate) sustained: Option<Run>,
    pub(crate) beyond: Vec<Beyond>,
    pub(crate) overload: Option<Overload>,
    /// All runs in their order.
    pub(crate) tried: Vec<Tried>,
}

/// Searches the highest sustainable load.
///
/// # Errors
/// When a run fails as a whole.
pub(crate) async fn search<F, R>(search: Search, measure: F) -> anyhow::Result<Capacity>
where
    F: FnMut(Trial) -> R,
    R: Future<Output = anyhow::Result<Run>>,
{
    let mut state = State { search, measure, tried: Vec::new() };
    let (mut good, mut limit) = state.bracket_and_bisect().await?;
    let mut retreats = 0;
    while let Some(per_second) = good {
        if state.confirm(per_second).await? {
            break;
        }
        limit = state.limit_of_last();
        retreats += 1;
        good = (retreats < RETREATS_MAX).then_some(per_second / PRECISION);
    }
    let mut capacity = Capacity {
        per_second: good,
        limit,
        sustained: None,
        beyond: Vec::new(),
        overload: None,
        tried: Vec::new(),
    };
    if let Some(per_second) = good {
        let confirmations = &state.tried[state.tried.len() - CONFIRMATIONS..];
        capacity.sustained = Run::merged(confirmations.iter().map(|tried| &tried.run));
        capacity.beyond = state.beyond(per_second, capacity.sustained.as_ref()).await?;
        capacity.overload = overload(&capacity.beyond);
    }
    capacity.tried = state.tried;
    Ok(capacity)
}

struct State<F> {
    search: Search,
    measure: F,
    tried: Vec<Tried>,
}

impl<F, R> State<F>
where
    F: FnMut(Trial) -> R,
    R: Future<Output = anyhow::Result<Run>>,
{
    async fn sustains(&mut self, per_second: f64, purpose: Purpose) -> anyhow::Result<bool> {
        // A fifth more than the percentile needs: arrivals are random.
        let needed = 1.2 * self.search.objective.samples_min() as f64 / per_second;
        let seconds = needed.max(self.search.seconds_min).min(self.search.seconds_max);
        let trial = Trial { per_second, duration: Duration::from_secs_f64(seconds), purpose };
        let run = (self.measure)(trial).await?;
        let judgement = Judgement::of(&run, &self.search.objective);
        let sustainable = judgement.sustainable;
        self.tried.push(Tried { purpose, per_second, judgement, run });
        Ok(sustainable)
    }

    fn limit_of_last(&self) -> Limit {
        match self.tried.last() {
            Some(tried) if !tried.judgement.generator.is_empty() => Limit::Generator,
            _ => Limit::Target,
        }
    }

    /// Returns the highest load that one run sustained, and what is in the way of more.
    async fn bracket_and_bisect(&mut self) -> anyhow::Result<(Option<f64>, Limit)> {
        let most = self.search.per_second_max;
        let mut per_second = self.search.per_second_first.min(most);
        let (mut good, mut bad) = (None, None);
        let mut limit = Limit::SearchBound;
        for step in 0.. {
            if self.sustains(per_second, Purpose::Ramp).await? {
                good = Some(per_second);
                if bad.is_some() || per_second >= most {
                    break;
                }
                per_second = (per_second * RAMP).min(most);
            } else {
                bad = Some(per_second);
                limit = self.limit_of_last();
                if good.is_some() || step >= STEPS_DOWN_MAX {
                    break;
                }
                per_second /= RAMP;
            }
        }
        let (Some(mut good), Some(mut bad)) = (good, bad) else { return Ok((good, limit)) };
        while bad / good > PRECISION {
            let between = (good * bad).sqrt();
            if self.sustains(between, Purpose::Bisection).await? {
                good = between;
            } else {
                bad = between;
                limit = self.limit_of_last();
            }
        }
        Ok((Some(good), limit))
    }

    async fn confirm(&mut self, per_second: f64) -> anyhow::Result<bool> {
        for _ in 0..CONFIRMATIONS {
            if !self.sustains(per_second, Purpose::Confirmation).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn beyond(&mut self, per_second: f64, sustained: Option<&Run>) -> anyhow::Result<Vec<Beyond>> {
        let objective = self.search.objective;
        let goodput = |run: &Run| run.response_time.within(objective.limit_us()) as f64 / run.seconds;
        let Some(base) = sustained.map(goodput) else { return Ok(Vec::new()) };
        let mut beyond = Vec::new();
        for factor in BEYOND {
            let offered_per_second = factor * per_second;
            if offered_per_second > self.search.per_second_max {
                break;
            }
            self.sustains(offered_per_second, Purpose::Beyond).await?;
            let Some(tried) = self.tried.last() else { continue };
            let goodput_per_second = goodput(&tried.run);
            beyond.push(Beyond {
                factor,
                offered_per_second,
                goodput_per_second,
                answered_per_second: tried.run.achieved(),
                kept: goodput_per_second / base,
                generator_limited: !tried.judgement.generator.is_empty(),
            });
        }
        Ok(beyond)
    }
}

/// Judges the behaviour beyond the capacity: none if the generator could not offer that much.
fn overload(beyond: &[Beyond]) -> Option<Overload> {
    let offered = beyond.iter().filter(|beyond| !beyond.generator_limited);
    let kept = offered.map(|beyond| beyond.kept).min_by(f64::total_cmp)?;
    Some(match kept {
        kept if kept >= SHEDS_MIN => Overload::Sheds,
        kept if kept >= COLLAPSES_BELOW => Overload::Degrades,
        _ => Overload::Collapses,
    })
}

#[cfg(test)]
mod tests;
