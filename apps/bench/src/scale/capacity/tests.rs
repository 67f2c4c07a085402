//! The search against simulated queues, whose capacity is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use super::*;
use crate::scale::run::tests::run;
use crate::scale::run::{CodeCount, InFlightSample, Load};

/// A queue with Poisson arrivals and exponential service, first come first served.
#[derive(Clone, Copy)]
struct Queue {
    servers: usize,
    /// Mean time of service.
    service: f64,
    /// Calls in the system from which more are refused at once.
    refuses_at: usize,
    /// Calls in the system from which each takes three times as long.
    thrashes_at: usize,
}

const QUEUE: Queue = Queue { servers: 1, service: 0.001, refuses_at: usize::MAX, thrashes_at: usize::MAX };

/// Runs the queue for a fifth of the time before it counts, as a load does.
fn simulate(queue: Queue, trial: Trial, seed: u64) -> Run {
    let mut random = Rng::with_seed(seed);
    let mut exponential = |mean: f64| -mean * (1.0 - random.f64()).ln();
    let seconds = trial.duration.as_secs_f64();
    let (begin, end) = (0.2 * seconds, 1.2 * seconds);
    let mut free = vec![0.0f64; queue.servers];
    // Departures of the calls in the system, in nanoseconds, which unlike seconds can be ordered.
    let mut departures: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let (mut response, mut in_flight) = (Vec::new(), Vec::new());
    let (mut due, mut refused, mut ok_within, mut now) = (0, 0, 0, 0.0);
    loop {
        now += exponential(1.0 / trial.per_second);
        if now >= end {
            break;
        }
        while departures.peek().is_some_and(|departure| departure.0 as f64 / 1e9 <= now) {
            departures.pop();
        }
        let counted = now >= begin;
        due += u64::from(counted);
        if counted && now - begin >= seconds / 100.0 * in_flight.len() as f64 {
            let at_ms = ((now - begin) * 1e3) as u64;
            in_flight.push(InFlightSample { at_ms, calls: departures.len() as u64 });
        }
        if departures.len() >= queue.refuses_at {
            refused += u64::from(counted);
            continue;
        }
        let slow = if departures.len() >= queue.thrashes_at { 3.0 } else { 1.0 };
        let server = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("a server");
        let done = free[server].max(now) + slow * exponential(queue.service);
        free[server] = done;
        departures.push(Reverse((done * 1e9) as u64));
        ok_within += u64::from(done >= begin && done < end);
        if counted {
            response.push(((done - now) * 1e6) as u64);
        }
    }
    let mut run = run(Load::Open { per_second: trial.per_second }, seconds, response);
    (run.due, run.ok_within, run.in_flight) = (due, ok_within, in_flight);
    run.errors =
        vec![CodeCount { code: "RESOURCE_EXHAUSTED".to_owned(), calls: refused, first: String::new() }];
    run
}

fn bounds(objective: &str) -> Search {
    Search {
        objective: objective.parse().expect("an objective"),
        per_second_first: 50.0,
        per_second_max: 1e6,
        seconds_min: 20.0,
        seconds_max: 60.0,
    }
}

async fn find(queue: Queue, bounds: Search) -> Capacity {
    let mut seed = 0;
    search(bounds, |trial| {
        seed += 1;
        std::future::ready(Ok(simulate(queue, trial, seed)))
    })
    .await
    .expect("no run fails")
}

#[tokio::test]
async fn single_server_capacity_is_found() {
    let capacity = find(QUEUE, bounds("p99=20ms")).await;
    // Response times of M/M/1 are exponential with rate μ − λ: p99 is ln(100) / (μ − λ).
    let truth = 1000.0 - 100f64.ln() / 0.020;
    let found = capacity.per_second.expect("found");
    assert!((found / truth - 1.0).abs() < 0.07, "{found} of {truth}");
    assert_eq!(capacity.limit, Limit::Target);
    let sustained = capacity.sustained.expect("confirmed");
    assert!(sustained.response_time.quantile_us(0.99).expect("samples") <= 20_000.0);
    assert!((sustained.seconds - 60.0).abs() < 1.0, "{}", sustained.seconds);
}

#[tokio::test]
async fn several_servers_capacity_is_found() {
    let queue = Queue { servers: 4, service: 0.004, ..QUEUE };
    let capacity = find(queue, bounds("p99=40ms")).await;
    // M/M/4 by Erlang's C, with 250 a second for each server: p99 of the response time is 40 ms at 875 a second.
    let found = capacity.per_second.expect("found");
    assert!((found / 875.0 - 1.0).abs() < 0.07, "{found}");
}

#[tokio::test]
async fn queue_without_bound_collapses() {
    let capacity = find(QUEUE, bounds("p99=20ms")).await;
    assert_eq!(capacity.overload, Some(Overload::Collapses));
    let worst = capacity.beyond.last().expect("measured");
    // Its answers come all the same, only too late.
    assert!(worst.answered_per_second > 900.0 && worst.kept < 0.1, "{worst:?}");
}

#[tokio::test]
async fn refusing_queue_sheds() {
    let queue = Queue { refuses_at: 15, ..QUEUE };
    let capacity = find(queue, bounds("p95=20ms")).await;
    assert_eq!(capacity.overload, Some(Overload::Sheds), "{:?}", capacity.beyond);
}

#[tokio::test]
async fn thrashing_server_collapses() {
    let queue = Queue { thrashes_at: 50, refuses_at: 10_000, ..QUEUE };
    let capacity = find(queue, bounds("p99=20ms")).await;
    assert_eq!(capacity.overload, Some(Overload::Collapses));
    let worst = capacity.beyond.last().expect("measured");
    assert!(worst.answered_per_second < 500.0, "{worst:?}");
}

#[tokio::test]
async fn slow_server_sustains_nothing() {
    let capacity = find(Queue { service: 0.080, servers: 1000, ..QUEUE }, bounds("p99=50ms")).await;
    assert_eq!((capacity.per_second, capacity.limit), (None, Limit::Target));
    assert!(capacity.tried.len() < 20);
}

#[tokio::test]
async fn generator_limit_is_no_capacity_of_target() {
    let capacity = search(bounds("p99=20ms"), |trial| {
        let mut run = simulate(QUEUE, trial, 1);
        run.generator_busiest = trial.per_second / 400.0;
        std::future::ready(Ok(run))
    })
    .await
    .expect("no run fails");
    assert_eq!((capacity.limit, capacity.overload), (Limit::Generator, None));
    assert!((300.0..=360.0).contains(&capacity.per_second.expect("found")));
}

#[tokio::test]
async fn search_keeps_within_its_bound() {
    let capacity = find(QUEUE, Search { per_second_max: 120.0, ..bounds("p99=20ms") }).await;
    assert_eq!((capacity.per_second, capacity.limit), (Some(120.0), Limit::SearchBound));
}

#[tokio::test]
async fn unsteady_load_is_not_confirmed() {
    // Every third run is bad, whatever the load.
    let mut runs = 0;
    let capacity = search(Search { per_second_max: 50.0, ..bounds("p99=20ms") }, |_| {
        runs += 1;
        let slow = if runs % 3 == 0 { 90_000 } else { 1_000 };
        std::future::ready(Ok(run(Load::Open { per_second: 50.0 }, 20.0, vec![slow; 1000])))
    })
    .await
    .expect("no run fails");
    assert_eq!((capacity.per_second, capacity.sustained), (None, None));
}
