//! Verdicts of services with known answers.

use super::*;
use crate::scale::run::Load;
use crate::scale::run::tests::{run, times};
use crate::scale::usl::model::Usl;
use crate::scale::usl::saturation::{Meeting, Saturation};

const LEVELS: [u32; 6] = [1, 2, 3, 4, 6, 8];

/// Returns a closed loop of `n` callers with `throughput`, in which Little's law holds.
fn closed(n: u32, throughput: f64) -> Run {
    let micros = (f64::from(n) / throughput * 1e6) as u64;
    run(Load::Closed { callers: n }, 10.0, vec![micros; (10.0 * throughput) as usize])
}

/// Returns an axis of three repetitions, each half a percent from the next.
fn axis(kind: AxisKind, throughput: impl Fn(f64) -> f64) -> Axis {
    let level = |&n: &u32| {
        let repetition = |noise: f64| closed(n, noise * throughput(f64::from(n)));
        AxisLevel { n, repetitions: [0.995, 1.005, 1.0].map(repetition).to_vec() }
    };
    Axis::new(kind, Vec::new(), LEVELS.iter().map(level).collect(), 1)
}

fn verdict(objective: &str, single: &[Run], axes: &[Axis]) -> Verdict {
    let objective = objective.parse().expect("an objective");
    judge(&Measurements { objective, single, axes, cores: 16, doubts: &[] })
}

fn fast() -> Vec<Run> {
    vec![closed(1, 200.0); 3]
}

#[test]
fn slow_single_user_is_performance_problem() {
    // A sleep of 80 ms scales perfectly, and is too slow for everybody.
    let slow = vec![closed(1, 12.5); 3];
    let verdict = verdict("p99=50ms", &slow, &[axis(AxisKind::Concurrency, |n| 12.5 * n)]);
    assert_eq!((verdict.problem, verdict.confidence), (Problem::Performance, Confidence::High));
    assert_eq!(verdict.axes[0].finding.problem, Problem::None);
}

#[test]
fn parallel_service_has_no_problem() {
    let axes = [axis(AxisKind::Concurrency, |n| 200.0 * n), axis(AxisKind::Clones, |n| 200.0 * n)];
    let verdict = verdict("p99=50ms", &fast(), &axes);
    assert_eq!((verdict.problem, verdict.confidence), (Problem::None, Confidence::High));
}

#[test]
fn lock_is_contention_of_callers() {
    let lock = Saturation { meeting: Meeting::WhenFull, gamma: 200.0, share: 0.25 };
    let verdict = verdict("p99=50ms", &fast(), &[axis(AxisKind::Concurrency, |n| lock.throughput(n))]);
    assert_eq!((verdict.problem, verdict.confidence), (Problem::Scalability, Confidence::High));
    assert_eq!(verdict.axes[0].term, Term::Contention);
    assert!(verdict.sentence.contains("lock"), "{}", verdict.sentence);
}

#[test]
fn crosstalk_is_coherence_of_clones() {
    let law = Usl { gamma: 200.0, alpha: 0.0, beta: 0.04 };
    let axes = [axis(AxisKind::Concurrency, |n| 200.0 * n), axis(AxisKind::Clones, |n| law.throughput(n))];
    let verdict = verdict("p99=50ms", &fast(), &axes);
    assert_eq!((verdict.problem, verdict.confidence), (Problem::Scalability, Confidence::High));
    assert_eq!((verdict.axes[0].term, verdict.axes[1].term), (Term::None, Term::Coherence));
    assert!(verdict.sentence.contains("clones have to agree"), "{}", verdict.sentence);
}

#[test]
fn late_answers_under_load_are_scalability() {
    let mut axis = axis(AxisKind::Clones, |n| 200.0 * n);
    for run in &mut axis.levels[5].repetitions {
        run.response_time = times(vec![90_000; usize::try_from(run.due).expect("few")]);
        // As if the calls in flight had not been known.
        run.load = Load::Open { per_second: 1600.0 };
    }
    let verdict = verdict("p99=50ms", &fast(), &[axis]);
    assert_eq!((verdict.problem, verdict.confidence), (Problem::Scalability, Confidence::Medium));
    assert!(verdict.sentence.contains("from 8 clones on"), "{}", verdict.sentence);
}

#[test]
fn busy_generator_is_no_fault_of_service() {
    let mut axis = axis(AxisKind::Concurrency, |n| 200.0 * n.min(4.0));
    for run in &mut axis.levels[5].repetitions {
        run.generator_busiest = 0.97;
    }
    let verdict = verdict("p99=50ms", &fast(), &[axis]);
    assert_eq!(verdict.problem, Problem::GeneratorLimited);
    assert!(verdict.sentence.contains("from 8 callers on"), "{}", verdict.sentence);
}

#[test]
fn contradicting_measurements_cannot_tell() {
    let above_one = axis(AxisKind::Clones, |n| if n > 1.0 { 260.0 * n } else { 200.0 });
    assert_eq!(verdict("p99=50ms", &fast(), &[above_one]).problem, Problem::CannotTell);
    let mut against_little = axis(AxisKind::Concurrency, |n| 200.0 * n);
    for run in &mut against_little.levels[3].repetitions {
        run.response_time = times(vec![9_000; 8000]);
    }
    let verdict = verdict("p99=50ms", &fast(), &[against_little]);
    assert_eq!(verdict.problem, Problem::CannotTell);
    assert!(verdict.axes[0].finding.evidence[0].contains("Little"), "{:?}", verdict.axes);
}

#[test]
fn full_machine_cannot_tell_about_clones() {
    let mut axis = axis(AxisKind::Clones, |n| 200.0 * n.min(4.0));
    for run in &mut axis.levels[5].repetitions {
        run.cpu_seconds = vec![1.9 * run.seconds; 8];
    }
    let verdict = verdict("p99=50ms", &fast(), &[axis]);
    assert_eq!(verdict.problem, Problem::CannotTell);
    assert!(verdict.sentence.contains("machine was full"), "{}", verdict.sentence);
}

#[test]
fn others_may_fill_the_machine() {
    let mut axis = axis(AxisKind::Clones, |n| 200.0 * n.min(4.0));
    for run in &mut axis.levels[5].repetitions {
        run.machine_busy = Some(0.99);
    }
    let verdict = verdict("p99=50ms", &fast(), &[axis]);
    assert!(verdict.sentence.contains("machine was full"), "{}", verdict.sentence);
}

#[test]
fn full_machine_cannot_tell_about_callers() {
    let mut axis = axis(AxisKind::Concurrency, |n| 200.0 * n.min(4.0));
    let lock = verdict("p99=50ms", &fast(), std::slice::from_ref(&axis));
    assert_eq!(lock.problem, Problem::Scalability);
    for run in &mut axis.levels[5].repetitions {
        run.machine_busy = Some(0.99);
    }
    let verdict = verdict("p99=50ms", &fast(), &[axis]);
    assert_eq!(verdict.problem, Problem::CannotTell);
    assert!(verdict.sentence.contains("run the target elsewhere"), "{}", verdict.sentence);
}

#[test]
fn too_little_cannot_tell() {
    assert_eq!(verdict("p99=50ms", &fast(), &[]).problem, Problem::CannotTell);
    assert_eq!(verdict("p99=50ms", &[], &[]).problem, Problem::CannotTell);
    let mut short = axis(AxisKind::Clones, |n| 200.0 * n);
    short.levels.pop();
    let short = Axis::new(short.kind, Vec::new(), short.levels, 1);
    let verdict = verdict("p99=50ms", &fast(), &[short]);
    assert_eq!(verdict.problem, Problem::CannotTell);
    assert!(verdict.axes[0].finding.evidence[0].contains("needs 6"), "{:?}", verdict.axes);
}

#[test]
fn doubtful_machine_caps_confidence() {
    let axes = [axis(AxisKind::Clones, |n| 200.0 * n)];
    let objective = "p99=50ms".parse().expect("an objective");
    let doubts = ["the host took 30 % of the CPUs' time".to_owned()];
    let single = fast();
    let verdict =
        judge(&Measurements { objective, single: &single, axes: &axes, cores: 16, doubts: &doubts });
    assert_eq!((verdict.problem, verdict.confidence), (Problem::None, Confidence::Medium));
}
