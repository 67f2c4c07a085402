//! `shoal.gateway.v1.GatewayService`: what stands behind the gateway, summed over its cores.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::Stream;
use futures::stream::unfold;
use shoal_balance::{EndpointSnapshot, EndpointState};
use shoal_kit::ApiError;
use shoal_kit::reason;
use shoal_proto::gateway::v1 as pb;
use shoal_proto::gateway::v1::gateway_service_server::GatewayService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Request, Response, Status};

use crate::resilience::latency_histogram::Summary;
use crate::routing::catalog::Catalog;
use crate::routing::table::Table;
use crate::upstream::meter::Event;
use crate::upstream::{Upstream, rank};

/// Between two responses of a watch, unless its caller asks for another time within these bounds.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Most watches at once: each makes the whole list anew every time.
const WATCHES_MAX: usize = 64;

pub(crate) struct Upstreams {
    catalog: Arc<Catalog>,
    watches: Arc<Semaphore>,
}

impl Upstreams {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Upstreams {
        Upstreams { catalog, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }
}

#[tonic::async_trait]
impl GatewayService for Upstreams {
    async fn list_upstreams(
        &self,
        _: Request<pb::ListUpstreamsRequest>,
    ) -> Result<Response<pb::ListUpstreamsResponse>, Status> {
        Ok(Response::new(pb::ListUpstreamsResponse { upstreams: list(&self.catalog.table()) }))
    }

    type WatchUpstreamsStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchUpstreamsResponse, Status>> + Send>>;

    async fn watch_upstreams(
        &self,
        request: Request<pb::WatchUpstreamsRequest>,
    ) -> Result<Response<Self::WatchUpstreamsStream>, Status> {
        let interval = interval(request.into_inner().interval)?;
        let permit = self.watches.clone().try_acquire_owned().map_err(|_| too_many_watches())?;
        let watch = Watch {
            changes: self.catalog.changes(),
            catalog: self.catalog.clone(),
            interval,
            last: None,
            _permit: permit,
        };
        let stream = unfold(watch, |mut watch| async move {
            let upstreams = watch.next().await?;
            Some((Ok(pb::WatchUpstreamsResponse { upstreams }), watch))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn interval(asked: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(asked) = asked else { return Ok(INTERVAL) };
    Duration::try_from(asked)
        .ok()
        .filter(|interval| (INTERVAL_MIN..=INTERVAL_MAX).contains(interval))
        .ok_or_else(|| {
            ApiError::invalid(reason::INVALID_INTERVAL, "interval", "must be from 100 ms to 1 h").into()
        })
}

fn too_many_watches() -> Status {
    let message = format!("{WATCHES_MAX} calls watch the upstreams already; end one, or use ListUpstreams");
    ApiError::new(Code::ResourceExhausted, reason::TOO_MANY_WATCHES, message)
        .meta("watches", WATCHES_MAX.to_string())
        .retry_after(INTERVAL)
        .into()
}

/// A call of WatchUpstreams.
struct Watch {
    catalog: Arc<Catalog>,
    changes: watch::Receiver<u64>,
    interval: Duration,
    /// When something was sent last, and what.
    last: Option<(Instant, Vec<pb::Upstream>)>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(&mut self) -> Option<Vec<pb::Upstream>> {
        if let Some((at, _)) = &self.last {
            sleep_until(*at + self.interval).await;
        }
        loop {
            self.changes.mark_unchanged();
            let upstreams = list(&self.catalog.table());
            let news = without_what_only_fades(&upstreams);
            if self.last.as_ref().is_none_or(|(_, last)| *last != news) {
                self.last = Some((Instant::now(), news));
                return Some(upstreams);
            }
            // A state is told of by the catalog; calls are looked for.
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = sleep(self.interval) => {}
            }
        }
    }
}

/// Averages, percentiles and budgets move with time alone, and are no news by themselves.
fn without_what_only_fades(upstreams: &[pb::Upstream]) -> Vec<pb::Upstream> {
    let mut upstreams = upstreams.to_vec();
    for upstream in &mut upstreams {
        upstream.retry_budget = 0.0;
        upstream.concurrency_limit = None;
        for endpoint in &mut upstream.endpoints {
            endpoint.ewma = None;
            (endpoint.p50, endpoint.p95, endpoint.p99) = (None, None, None);
            endpoint.ramp = 0.0;
            endpoint.next_probe_time = None;
        }
    }
    upstreams
}

fn list(table: &Table) -> Vec<pb::Upstream> {
    let mut upstreams: Vec<pb::Upstream> =
        table.entries.iter().map(|entry| upstream(table, &entry.upstream)).collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    upstreams
}

fn upstream(table: &Table, upstream: &Arc<Upstream>) -> pb::Upstream {
    let now = Instant::now();
    let mut endpoints: BTreeMap<SocketAddr, Seen> = BTreeMap::new();
    let mut sum = pb::Upstream {
        name: upstream.name.clone(),
        services: table.services_of(upstream),
        warnings: table.warnings_of(&upstream.name),
        ..pb::Upstream::default()
    };
    for state in upstream.workers() {
        for seen in state.balancer.snapshot() {
            let endpoint = endpoints.entry(seen.address).or_default();
            state.latencies(seen.address, &mut endpoint.latencies, now);
            endpoint.by_core.push(seen);
        }
        for (code, count) in state.meter.calls() {
            *sum.calls_by_code.entry(code.to_owned()).or_default() += number(count);
        }
        sum.retries += number(state.meter.events(Event::Retry));
        sum.hedges += number(state.meter.events(Event::Hedge));
        sum.hedges_won += number(state.meter.events(Event::HedgeWon));
        sum.shed += number(state.meter.events(Event::Shed));
        sum.retry_budget += state.budget().left(now);
        if let Some(limiter) = &state.limiter {
            let (limit, queued) = limiter.now();
            sum.concurrency_limit = Some(sum.concurrency_limit.unwrap_or(0) + number(limit as u64));
            sum.queued += number(queued as u64);
        }
    }
    sum.endpoints = endpoints.iter().map(|(address, seen)| endpoint(*address, seen)).collect();
    sum
}

/// The views that the cores have of one endpoint.
#[derive(Default)]
struct Seen {
    by_core: Vec<EndpointSnapshot>,
    latencies: Summary,
}

fn endpoint(address: SocketAddr, seen: &Seen) -> pb::Endpoint {
    let cores = &seen.by_core;
    let total = |of: fn(&EndpointSnapshot) -> u64| number(cores.iter().map(of).sum());
    let percentile = |share| seen.latencies.percentile(share).map(duration);
    let best = cores.iter().map(|core| core.state).max_by_key(|state| rank(*state));
    let backing = cores.iter().map(|core| &core.backing).find(|backing| !backing.engine.is_empty());
    let next_probe = cores.iter().filter_map(|core| Some(core.ejection.as_ref()?.next_probe)).min();
    pb::Endpoint {
        address: address.to_string(),
        state: best.map_or(pb::EndpointState::Unspecified, state).into(),
        reason: reason(cores),
        ewma: cores.iter().map(|core| core.ewma).max().map(duration),
        in_flight: total(|core| core.in_flight.into()),
        calls: total(|core| core.calls),
        failures: total(|core| core.failures),
        streams: total(|core| core.streams.into()),
        successes: total(|core| core.successes),
        p50: percentile(0.50),
        p95: percentile(0.95),
        p99: percentile(0.99),
        ramp: cores.iter().map(|core| core.ramp).fold(1.0, f64::min),
        weight: cores.first().map_or(1, |core| core.weight.try_into().unwrap_or(i32::MAX)),
        next_probe_time: next_probe.map(|after| (SystemTime::now() + after).into()),
        ready_cores: count(cores.iter().filter(|core| core.state == EndpointState::Ready).count()),
        cores: count(cores.len()),
        engine: backing.map_or(String::new(), |backing| backing.engine.clone()),
        store: backing.map_or(String::new(), |backing| backing.store.clone()),
    }
}

/// Reasons why the cores are not all ready: that of the state shown unless it is ready, then that of the worst core, and how many
/// are in that state if not all are.
fn reason(cores: &[EndpointSnapshot]) -> String {
    let by_rank = |core: &&EndpointSnapshot| rank(core.state);
    let (Some(worst), Some(best)) = (cores.iter().min_by_key(by_rank), cores.iter().max_by_key(by_rank))
    else {
        return String::new();
    };
    if worst.state == best.state {
        return why(worst).to_owned();
    }
    let alike = cores.iter().filter(|core| core.state == worst.state).count();
    let rest = format!("{} on {alike} of {} cores: {}", worst.state, cores.len(), why(worst));
    match best.state {
        EndpointState::Ready => rest,
        _ => format!("{}; {rest}", why(best)),
    }
}

fn why(core: &EndpointSnapshot) -> &str {
    core.ejection.as_ref().map_or(&core.reason, |ejection| &ejection.reason)
}

fn state(state: EndpointState) -> pb::EndpointState {
    match state {
        EndpointState::Connecting => pb::EndpointState::Connecting,
        EndpointState::NotServing => pb::EndpointState::NotServing,
        EndpointState::Ejected => pb::EndpointState::Ejected,
        EndpointState::OtherStore => pb::EndpointState::OtherStore,
        EndpointState::Ready => pb::EndpointState::Ready,
    }
}

fn number(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn count(count: usize) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use shoal_balance::EjectionSnapshot;

    use super::*;

    fn seen(state: EndpointState, reason: &str, in_flight: u32) -> EndpointSnapshot {
        EndpointSnapshot {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            weight: 2,
            state,
            reason: reason.to_owned(),
            backing: shoal_balance::Backing::default(),
            ewma: Duration::from_millis(u64::from(in_flight)),
            penalty: Duration::ZERO,
            connections: 1,
            in_flight,
            streams: 1,
            calls: 10,
            successes: 8,
            failures: 2,
            ramp: 1.0 / f64::from(in_flight),
            ejection: (state == EndpointState::Ejected).then(|| EjectionSnapshot {
                reason: "5 failures in a row".to_owned(),
                since: Duration::ZERO,
                next_probe: Duration::from_secs(4),
                times: 1,
            }),
        }
    }

    fn merged(cores: Vec<EndpointSnapshot>) -> pb::Endpoint {
        let address = cores[0].address;
        endpoint(address, &Seen { by_core: cores, latencies: Summary::default() })
    }

    #[test]
    fn disagreeing_cores_show_the_worst() {
        let cores = vec![seen(EndpointState::Ready, "", 3), seen(EndpointState::Ejected, "", 4)];
        let endpoint = merged(cores);
        assert_eq!(endpoint.state(), pb::EndpointState::Ready);
        assert_eq!(endpoint.reason, "ejected on 1 of 2 cores: 5 failures in a row");
        assert_eq!((endpoint.ready_cores, endpoint.cores), (1, 2));
        assert_eq!((endpoint.in_flight, endpoint.streams, endpoint.calls), (7, 2, 20));
        assert_eq!((endpoint.successes, endpoint.failures, endpoint.weight), (16, 4, 2));
        assert_eq!(endpoint.ewma, Some(duration(Duration::from_millis(4))));
        assert_eq!(endpoint.ramp, 0.25);
        let probe = SystemTime::try_from(endpoint.next_probe_time.expect("a probe")).expect("a time");
        let left = probe.duration_since(SystemTime::now()).expect("to come");
        assert!(left <= Duration::from_secs(4) && left > Duration::from_secs(1), "{left:?}");
    }

    #[test]
    fn cores_that_agree_say_why_once() {
        let cores = || seen(EndpointState::Connecting, "refused", 1);
        let endpoint = merged(vec![cores(), cores()]);
        assert_eq!(endpoint.state(), pb::EndpointState::Connecting);
        assert_eq!((endpoint.reason.as_str(), endpoint.next_probe_time), ("refused", None));
    }

    #[test]
    fn shown_state_keeps_its_reason() {
        let cores = vec![
            seen(EndpointState::OtherStore, "not the store of 127.0.0.1:2", 1),
            seen(EndpointState::Connecting, "refused", 1),
        ];
        let endpoint = merged(cores);
        assert_eq!(endpoint.state(), pb::EndpointState::OtherStore);
        assert_eq!(endpoint.reason, "not the store of 127.0.0.1:2; connecting on 1 of 2 cores: refused");
    }

    #[test]
    fn an_interval_is_given_or_bounded() {
        let asked = |ms| interval(Some(duration(Duration::from_millis(ms)))).ok();
        assert_eq!(interval(None).ok(), Some(INTERVAL));
        assert_eq!((asked(100), asked(99)), (Some(INTERVAL_MIN), None));
        assert_eq!((asked(3_600_000), asked(3_600_001)), (Some(INTERVAL_MAX), None));
        assert!(interval(Some(prost_types::Duration { seconds: -1, nanos: 0 })).is_err());
    }
}
