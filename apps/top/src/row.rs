//! The rows: one for each clone, made of what a gateway says now and what it said before. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use shoal_proto::gateway::v1::{Endpoint, EndpointState, Upstream};

use crate::queues::{self, Queues};

/// Column of the table, by which it can be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Service,
    Clone,
    Ready,
    Success,
    Rps,
    P50,
    P95,
    P99,
    Ewma,
    InFlight,
    State,
    Engine,
    Why,
}

impl Column {
    pub(crate) const ALL: [Column; 13] = [
        Column::Service,
        Column::Clone,
        Column::Ready,
        Column::Success,
        Column::Rps,
        Column::P50,
        Column::P95,
        Column::P99,
        Column::Ewma,
        Column::InFlight,
        Column::State,
        Column::Engine,
        Column::Why,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Column::Service => "SERVICE",
            Column::Clone => "CLONE",
            Column::Ready => "READY",
            Column::Success => "SUCCESS",
            Column::Rps => "RPS",
            Column::P50 => "P50",
            Column::P95 => "P95",
            Column::P99 => "P99",
            Column::Ewma => "EWMA",
            Column::InFlight => "IN-FLIGHT",
            Column::State => "STATE",
            Column::Engine => "ENGINE",
            Column::Why => "WHY",
        }
    }

    /// The one after it; after the last the first.
    pub(crate) fn next(self) -> Column {
        let at = Column::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Column::ALL[(at + 1) % Column::ALL.len()]
    }

    /// Returns whether the column has numbers: right-aligned, and sorted from the highest.
    pub(crate) fn is_number(self) -> bool {
        !matches!(
            self,
            Column::Service | Column::Clone | Column::Ready | Column::State | Column::Engine | Column::Why
        )
    }
}

/// A clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) service: String,
    pub(crate) clone: String,
    pub(crate) ready_cores: i32,
    pub(crate) cores: i32,
    /// Share of the calls since the last update that succeeded, if any ended.
    pub(crate) success: Option<f64>,
    /// Calls a second since the last update.
    pub(crate) rps: Option<f64>,
    pub(crate) p50: Option<Duration>,
    pub(crate) p95: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) ewma: Option<Duration>,
    pub(crate) in_flight: i64,
    pub(crate) streams: i64,
    pub(crate) state: EndpointState,
    /// Store of the clone, as it names it; empty if it does not.
    pub(crate) engine: String,
    pub(crate) why: String,
}

/// Previous update, and the time since then.
pub(crate) type Before<'b> = Option<(&'b [Upstream], Duration)>;

/// Returns a row for each clone; a service without one has a row that says so.
pub(crate) fn rows(now: &[Upstream], before: Before<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for upstream in now {
        if upstream.endpoints.is_empty() {
            rows.push(Row::empty(&upstream.name));
        }
        for endpoint in &upstream.endpoints {
            let last = before.and_then(|(before, ago)| {
                let upstream = before.iter().find(|before| before.name == upstream.name)?;
                let last = upstream.endpoints.iter().find(|last| last.address == endpoint.address)?;
                Some((last, ago))
            });
            rows.push(Row::of(&upstream.name, endpoint, last));
        }
    }
    rows
}

impl Row {
    fn empty(service: &str) -> Row {
        Row {
            service: service.to_owned(),
            clone: "-".to_owned(),
            ready_cores: 0,
            cores: 0,
            success: None,
            rps: None,
            p50: None,
            p95: None,
            p99: None,
            ewma: None,
            in_flight: 0,
            streams: 0,
            state: EndpointState::Unspecified,
            engine: String::new(),
            why: "discovery has found no clone".to_owned(),
        }
    }

    fn of(service: &str, endpoint: &Endpoint, last: Option<(&Endpoint, Duration)>) -> Row {
        // A clone that came back counts from nothing again.
        let since = |now: i64, last: i64| if now >= last { now - last } else { now } as f64;
        let rps = last.filter(|(_, ago)| !ago.is_zero());
        let rps = rps.map(|(last, ago)| since(endpoint.calls, last.calls) / ago.as_secs_f64());
        let judged = last.map(|(last, _)| {
            (since(endpoint.successes, last.successes), since(endpoint.failures, last.failures))
        });
        Row {
            service: service.to_owned(),
            clone: endpoint.address.clone(),
            ready_cores: endpoint.ready_cores,
            cores: endpoint.cores,
            success: judged.filter(|(good, bad)| good + bad > 0.0).map(|(good, bad)| good / (good + bad)),
            rps,
            p50: duration(endpoint.p50),
            p95: duration(endpoint.p95),
            p99: duration(endpoint.p99),
            ewma: duration(endpoint.ewma),
            in_flight: endpoint.in_flight,
            streams: endpoint.streams,
            state: endpoint.state(),
            engine: endpoint.engine.clone(),
            why: endpoint.reason.clone(),
        }
    }

    /// Returns the text of a column.
    pub(crate) fn text(&self, column: Column) -> String {
        match column {
            Column::Service => self.service.clone(),
            Column::Clone => self.clone.clone(),
            Column::Ready => format!("{}/{}", self.ready_cores, self.cores),
            Column::Success => self.success.map_or_else(none, percent),
            Column::Rps => self.rps.map_or_else(none, |rps| format!("{rps:.1}")),
            Column::P50 => self.p50.map_or_else(none, time),
            Column::P95 => self.p95.map_or_else(none, time),
            Column::P99 => self.p99.map_or_else(none, time),
            Column::Ewma => self.ewma.map_or_else(none, time),
            Column::InFlight if self.streams > 0 => format!("{} +{}", self.in_flight, self.streams),
            Column::InFlight => self.in_flight.to_string(),
            Column::State => state(self.state).to_owned(),
            Column::Engine if self.engine.is_empty() => none(),
            Column::Engine => self.engine.clone(),
            Column::Why => self.why.clone(),
        }
    }

    /// Returns whether a row contains `text`, in any case.
    pub(crate) fn has(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        Column::ALL.iter().any(|column| self.text(*column).to_lowercase().contains(&text))
    }

    fn compare(&self, other: &Row, column: Column) -> Ordering {
        let number = |row: &Row| match column {
            Column::Success => row.success,
            Column::Rps => row.rps,
            Column::P50 => row.p50.map(|p50| p50.as_secs_f64()),
            Column::P95 => row.p95.map(|p95| p95.as_secs_f64()),
            Column::P99 => row.p99.map(|p99| p99.as_secs_f64()),
            Column::Ewma => row.ewma.map(|ewma| ewma.as_secs_f64()),
            Column::InFlight => Some((row.in_flight + row.streams) as f64),
            _ => None,
        };
        if column.is_number() {
            // From the highest; what there is not comes last.
            return number(other).unwrap_or(-1.0).total_cmp(&number(self).unwrap_or(-1.0));
        }
        match column {
            Column::Ready => (self.ready_cores, self.cores).cmp(&(other.ready_cores, other.cores)),
            _ => self.text(column).cmp(&other.text(column)),
        }
    }
}

/// Sorts by a column, and rows that are alike in it by their names.
pub(crate) fn sort(rows: &mut [Row], column: Column, reversed: bool) {
    rows.sort_by(|a, b| {
        let order = a.compare(b, column);
        let order = if reversed { order.reverse() } else { order };
        order.then_with(|| (&a.service, &a.clone).cmp(&(&b.service, &b.clone)))
    });
}

/// The service whose queues are shown.
const JOBS: &str = "shoal.jobs.v1.JobsService";

/// The lines below the table: one for each service that is shown, and the queues if jobs is among them.
pub(crate) fn below(shown: &[&Upstream], queues: &Queues) -> Vec<String> {
    let mut lines: Vec<String> = shown.iter().map(|upstream| summary(upstream)).collect();
    if shown.iter().any(|upstream| upstream.services.iter().any(|service| service == JOBS)) {
        lines.extend(queues::lines(queues));
    }
    lines
}

/// Summarizes the calls of a service and its current limits.
fn summary(upstream: &Upstream) -> String {
    let mut codes: Vec<_> = upstream.calls_by_code.iter().collect();
    codes.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), *code));
    let codes: Vec<String> = codes.into_iter().map(|(code, count)| format!("{code} {count}")).collect();
    let calls = if codes.is_empty() { "no calls".to_owned() } else { codes.join(", ") };
    let mut line = format!(
        "{}: {calls}; retries {} (budget {:.0}), hedges {} (won {}), shed {}",
        upstream.name,
        upstream.retries,
        upstream.retry_budget,
        upstream.hedges,
        upstream.hedges_won,
        upstream.shed
    );
    if let Some(limit) = upstream.concurrency_limit {
        line.push_str(&format!("; at most {limit} at once, {} queued", upstream.queued));
    }
    line
}

fn none() -> String {
    "-".to_owned()
}

/// Never 100 % when one has failed.
fn percent(share: f64) -> String {
    format!("{:.1}%", (share * 1_000.0).floor() / 10.0)
}

fn time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1_000.0 => format!("{micros:.0}µs"),
        ..100_000.0 => format!("{:.1}ms", micros / 1e3),
        ..1_000_000.0 => format!("{:.0}ms", micros / 1e3),
        _ => format!("{:.2}s", micros / 1e6),
    }
}

fn state(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Unspecified => "none",
        EndpointState::Connecting => "connecting",
        EndpointState::NotServing => "not serving",
        EndpointState::Ready => "ready",
        EndpointState::Ejected => "ejected",
        EndpointState::OtherStore => "other store",
    }
}

fn duration(duration: Option<prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(duration?).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A clone that has had so many calls.
    pub(crate) fn endpoint(address: &str, calls: i64, failures: i64, p99_ms: i32) -> Endpoint {
        let ms = |ms: i32| Some(prost_types::Duration { seconds: 0, nanos: ms * 1_000_000 });
        Endpoint {
            address: address.to_owned(),
            state: EndpointState::Ready.into(),
            calls,
            failures,
            successes: calls - failures,
            p50: ms(1),
            p95: ms(2),
            p99: ms(p99_ms),
            ewma: ms(1),
            in_flight: 3,
            ready_cores: 2,
            cores: 2,
            engine: "redis a:1".to_owned(),
            ..Endpoint::default()
        }
    }

    pub(crate) fn upstream(name: &str, endpoints: Vec<Endpoint>) -> Upstream {
        Upstream { name: name.to_owned(), endpoints, ..Upstream::default() }
    }

    fn texts(row: &Row) -> Vec<String> {
        Column::ALL.iter().map(|column| row.text(*column)).collect()
    }

    #[test]
    fn rates_cover_the_last_interval() {
        let before = [upstream("cache", vec![endpoint("10.0.0.1:1", 100, 50, 7)])];
        let now = [upstream("cache", vec![endpoint("10.0.0.1:1", 300, 51, 7)])];
        let rows = rows(&now, Some((&before, Duration::from_secs(2))));
        let expected = [
            "cache",
            "10.0.0.1:1",
            "2/2",
            "99.5%",
            "100.0",
            "1.0ms",
            "2.0ms",
            "7.0ms",
            "1.0ms",
            "3",
            "ready",
            "redis a:1",
            "",
        ];
        assert_eq!(texts(&rows[0]), expected);
    }

    #[test]
    fn unknown_values_are_dashes() {
        let mut idle = endpoint("10.0.0.1:1", 5, 0, 7);
        (idle.p50, idle.p95, idle.p99) = (None, None, None);
        idle.streams = 9;
        let first = rows(&[upstream("cache", vec![idle.clone()])], None);
        assert_eq!(texts(&first[0])[3..10], ["-", "-", "-", "-", "-", "1.0ms", "3 +9"]);
        let now = [upstream("cache", vec![idle]), upstream("jobs", vec![])];
        let rows = rows(&now, Some((&now, Duration::from_secs(1))));
        assert_eq!(texts(&rows[0])[3..5], ["-", "0.0"]);
        assert_eq!(
            (texts(&rows[1])[11].as_str(), texts(&rows[1])[12].as_str()),
            ("-", "discovery has found no clone")
        );
    }

    #[test]
    fn returned_clone_counts_from_zero() {
        let before = [upstream("cache", vec![endpoint("10.0.0.1:1", 1_000, 0, 7)])];
        let now = [upstream("cache", vec![endpoint("10.0.0.1:1", 10, 0, 7)])];
        assert_eq!(rows(&now, Some((&before, Duration::from_secs(1))))[0].rps, Some(10.0));
    }

    #[test]
    fn one_failure_in_a_million_shows() {
        assert_eq!(
            (percent(0.999_999), percent(1.0), percent(0.0)),
            ("99.9%".into(), "100.0%".into(), "0.0%".into())
        );
    }

    #[test]
    fn times_have_readable_units() {
        let times = [730, 1_500, 99_400, 150_000, 2_500_000].map(|us| time(Duration::from_micros(us)));
        assert_eq!(times, ["730µs", "1.5ms", "99.4ms", "150ms", "2.50s"]);
    }

    #[test]
    fn numbers_sort_descending_names_ascending() {
        let mut unknown = endpoint("d", 0, 0, 0);
        unknown.p99 = None;
        let now = [upstream(
            "s",
            vec![endpoint("b", 0, 0, 5), endpoint("a", 0, 0, 9), endpoint("c", 0, 0, 5), unknown],
        )];
        let mut rows = rows(&now, None);
        let mut by = |column, reversed| {
            sort(&mut rows, column, reversed);
            rows.iter().map(|row| row.clone.as_str()).collect::<String>()
        };
        assert_eq!(by(Column::P99, false), "abcd");
        assert_eq!(by(Column::P99, true), "dbca");
        assert_eq!((by(Column::Clone, false), by(Column::Clone, true)), ("abcd".into(), "dcba".into()));
    }

    #[test]
    fn a_filter_looks_everywhere() {
        let mut down = endpoint("10.0.0.1:1", 0, 0, 0);
        down.state = EndpointState::Ejected.into();
        down.reason = "5 failures in a row".to_owned();
        let row = &rows(&[upstream("cache", vec![down])], None)[0];
        for text in ["CACHE", "0.0.1", "eject", "redis a", "in a row", ""] {
            assert!(row.has(text), "{text}");
        }
        assert!(!row.has("session"));
    }

    #[test]
    fn summary_names_commonest_code_first() {
        let mut cache = upstream("cache", vec![]);
        cache.calls_by_code = [("UNAVAILABLE".to_owned(), 3), ("OK".to_owned(), 90)].into();
        (cache.retries, cache.retry_budget, cache.concurrency_limit) = (4, 12.6, Some(50));
        let expected = "cache: OK 90, UNAVAILABLE 3; retries 4 (budget 13), hedges 0 (won 0), shed 0; at most 50 at once, 0 queued";
        assert_eq!(summary(&cache), expected);
        assert!(summary(&upstream("jobs", vec![])).starts_with("jobs: no calls; "));
    }

    #[test]
    fn queues_are_shown_where_jobs_is() {
        let queues =
            Some(Ok(vec![shoal_proto::jobs::v1::Queue { name: "mail".into(), ..Default::default() }]));
        let (cache, mut jobs) = (upstream("cache", vec![]), upstream("work", vec![]));
        jobs.services = vec![JOBS.to_owned()];
        assert_eq!(below(&[&cache], &queues).len(), 1);
        let lines = below(&[&cache, &jobs], &queues);
        assert!(lines.len() == 3 && lines[2].starts_with("queue mail: "), "{lines:?}");
    }
}
