//! Looks up the targets behind a name on a clock of our own: Docker's resolver answers a TTL of 600 s, and a stopped container
//! must not go unnoticed for ten minutes. A failure, a time-out or an empty answer keeps the last list.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;

use super::resolver::Resolver;
use super::srv::{self, Service};
use super::{ReResolution, publish};
use crate::discovery::source::TARGETS_MAX;
use crate::discovery::target::Target;

/// The intervals at which a name is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The interval once the name resolves.
    resolved: Duration,
    /// The interval until the name first resolves, for a container that starts before its peers. Also the shortest time between
    /// two look-ups, however many connections fail.
    unresolved: Duration,
    /// The longest time for an answer; with SRV records, for all answers together.
    answer_within: Duration,
}

/// The intervals in production; tests have their own.
pub(super) const PACE: Pace = Pace {
    resolved: Duration::from_secs(5),
    unresolved: Duration::from_millis(500),
    answer_within: Duration::from_secs(5),
};

/// A question to the resolver.
pub(super) enum Question {
    /// The addresses of a host.
    Host { host: String, port: u16 },
    /// The services of a name, and then the addresses of their hosts.
    Services {
        name: String,
        /// The last known addresses of each host: a host that cannot be resolved for a while keeps them.
        hosts: HashMap<String, Vec<SocketAddr>>,
    },
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Host { host, port } => write!(f, "{host}:{port}"),
            Question::Services { name, .. } => f.write_str(name),
        }
    }
}

impl Question {
    pub(super) fn services(name: String) -> Question {
        Question::Services { name, hosts: HashMap::new() }
    }

    /// Asks the question. The targets are sorted and unique, so that a resolver that rotates its answers does not look like a
    /// change. An answer without targets is an error.
    async fn ask(&mut self, resolver: &impl Resolver) -> io::Result<Vec<Target>> {
        let targets = match self {
            Question::Host { host, port } => addresses(resolver, host, *port).await?,
            Question::Services { name, hosts } => services(resolver, name, hosts).await?,
        };
        if targets.is_empty() { Err(io::Error::other("no address in the answer")) } else { Ok(targets) }
    }
}

async fn addresses(resolver: &impl Resolver, host: &str, port: u16) -> io::Result<Vec<Target>> {
    let mut addresses = resolver.addresses(host, port).await?;
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(TARGETS_MAX);
    Ok(addresses.into_iter().map(Target::new).collect())
}

/// Resolves the targets of the lowest priority that has any (RFC 2782).
async fn services(
    resolver: &impl Resolver,
    name: &str,
    hosts: &mut HashMap<String, Vec<SocketAddr>>,
) -> io::Result<Vec<Target>> {
    let mut services = resolver.services(name).await?;
    services.truncate(TARGETS_MAX);
    hosts.retain(|host, _| services.iter().any(|service| service.host == *host));
    let mut last_error = None;
    for tier in srv::tiers(services) {
        let answers = join_all(tier.into_iter().map(async |service: Service| {
            let answer = resolver.addresses(&service.host, service.port).await;
            (service, answer)
        }));
        let mut resolved = Vec::new();
        for (service, answer) in answers.await {
            let addresses = match answer {
                Ok(addresses) if !addresses.is_empty() => {
                    hosts.insert(service.host.clone(), addresses.clone());
                    addresses
                }
                answer => {
                    last_error = answer.err().or(last_error);
                    let known = hosts.get(&service.host).into_iter().flatten();
                    known.map(|address| SocketAddr::new(address.ip(), service.port)).collect()
                }
            };
            resolved.push((service, addresses));
        }
        let targets = srv::targets(&resolved);
        if !targets.is_empty() {
            return Ok(targets);
        }
    }
    last_error.map_or(Ok(Vec::new()), Err)
}

/// Follows `question` until the last receiver is gone.
pub(super) async fn follow(
    mut question: Question,
    pace: Pace,
    resolver: impl Resolver,
    re_resolution: ReResolution,
    sender: &watch::Sender<Arc<[Target]>>,
) {
    let name = question.to_string();
    let mut last_error: Option<String> = None;
    loop {
        let answer = tokio::select! {
            answer = timeout(pace.answer_within, question.ask(&resolver)) => answer,
            () = sender.closed() => return,
        };
        let late = || Err(io::Error::other(format!("no answer within {:?}", pace.answer_within)));
        let answer = answer.unwrap_or_else(|_| late());
        match answer {
            Ok(targets) => {
                let count = targets.len();
                if publish(sender, targets) {
                    tracing::info!(name, count, "name resolved");
                }
                last_error = None;
            }
            Err(error) => {
                let error = error.to_string();
                // An error is logged once, not every five seconds of an outage.
                if last_error.as_ref() != Some(&error) {
                    tracing::warn!(name, error, "name not resolved; the last targets are kept");
                    last_error = Some(error);
                }
            }
        }
        let rest = if sender.borrow().is_empty() { Duration::ZERO } else { pace.resolved - pace.unresolved };
        let pause = async {
            tokio::time::sleep(pace.unresolved).await;
            tokio::select! { () = re_resolution.requested() => {}, () = tokio::time::sleep(rest) => {} }
        };
        tokio::select! { () = pause => {}, () = sender.closed() => return }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    /// The intervals of [`PACE`], a hundred times shorter.
    const FAST: Pace = Pace {
        resolved: Duration::from_millis(50),
        unresolved: Duration::from_millis(5),
        answer_within: Duration::from_millis(50),
    };
    /// Intervals that never end once a name is resolved.
    const SLOW: Pace = Pace { resolved: Duration::from_secs(3600), ..FAST };

    const SOON: Duration = Duration::from_secs(10);

    /// A scripted answer of the resolver: addresses, records, an error, or nothing at all.
    #[derive(Clone)]
    enum Says<T> {
        This(Vec<T>),
        Error(&'static str),
        Nothing,
    }

    impl<T: Clone> Says<T> {
        async fn say(&self) -> io::Result<Vec<T>> {
            match self {
                Says::This(answer) => Ok(answer.clone()),
                Says::Error(error) => Err(io::Error::other(*error)),
                Says::Nothing => std::future::pending().await,
            }
        }
    }

    /// A resolver that gives scripted answers and counts the questions.
    struct Fake(Arc<Mutex<Script>>, watch::Sender<usize>);

    struct Script {
        hosts: HashMap<String, Says<SocketAddr>>,
        services: Says<Service>,
    }

    impl Resolver for Fake {
        async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            self.1.send_modify(|asked| *asked += 1);
            let says = self.0.lock().unwrap().hosts.get(host).cloned();
            let mut addresses = says.unwrap_or(Says::Error("NXDOMAIN")).say().await?;
            addresses.iter_mut().for_each(|address| address.set_port(port));
            Ok(addresses)
        }

        async fn services(&self, _name: &str) -> io::Result<Vec<Service>> {
            self.1.send_modify(|asked| *asked += 1);
            let says = self.0.lock().unwrap().services.clone();
            says.say().await
        }
    }

    /// A followed name.
    struct Followed {
        script: Arc<Mutex<Script>>,
        asked: watch::Receiver<usize>,
        re_resolution: ReResolution,
        targets: watch::Receiver<Arc<[Target]>>,
    }

    fn ips(ips: &[&str]) -> Says<SocketAddr> {
        Says::This(ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect())
    }

    fn record(priority: u16, weight: u16, host: &str) -> Service {
        Service { priority, weight, host: host.into(), port: 1 }
    }

    impl Followed {
        fn host(pace: Pace, says: Says<SocketAddr>) -> Followed {
            let question = Question::Host { host: "fish".into(), port: 1 };
            Followed::new(pace, question, [("fish", says)], Says::Nothing)
        }

        fn srv<const N: usize>(records: Vec<Service>, hosts: [(&str, Says<SocketAddr>); N]) -> Followed {
            let question = Question::services("_grpc._tcp.fish".into());
            Followed::new(FAST, question, hosts, Says::This(records))
        }

        fn new<const N: usize>(
            pace: Pace,
            question: Question,
            hosts: [(&str, Says<SocketAddr>); N],
            services: Says<Service>,
        ) -> Followed {
            let hosts = hosts.into_iter().map(|(host, says)| (host.to_owned(), says)).collect();
            let script = Arc::new(Mutex::new(Script { hosts, services }));
            let (sender, targets) = watch::channel(Arc::from([]));
            let (asking, asked) = watch::channel(0);
            let re_resolution = ReResolution::default();
            let (resolver, requests) = (Fake(script.clone(), asking), re_resolution.clone());
            tokio::spawn(async move { follow(question, pace, resolver, requests, &sender).await });
            Followed { script, asked, re_resolution, targets }
        }

        fn says(&self, host: &str, says: Says<SocketAddr>) {
            self.script.lock().unwrap().hosts.insert(host.into(), says);
        }

        fn records(&self, says: Says<Service>) {
            self.script.lock().unwrap().services = says;
        }

        fn asked(&self) -> usize {
            *self.asked.borrow()
        }

        /// Waits until the resolver was asked this many times more. All answers before the last one have been processed.
        async fn is_asked(&mut self, more: usize) {
            let until = self.asked() + more;
            let asked = self.asked.wait_for(|asked| *asked >= until);
            tokio::time::timeout(SOON, asked).await.expect("in time").expect("still open");
        }

        /// Waits until these are the targets.
        #[track_caller]
        fn becomes(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
            let reached = self
                .targets
                .wait_for(|targets| targets.iter().map(Target::to_string).eq(expected.iter().copied()));
            async { drop(tokio::time::timeout(SOON, reached).await.expect("in time").expect("still open")) }
        }

        #[track_caller]
        fn is(&self, expected: &[&str]) {
            let targets: Vec<String> = self.targets.borrow().iter().map(Target::to_string).collect();
            assert_eq!(targets, expected);
        }
    }

    #[tokio::test]
    async fn resolves_on_own_clock_despite_ttl() {
        // The resolver's trait has no TTL: there is nothing that could be kept.
        let begun = Instant::now();
        let mut name = Followed::host(FAST, ips(&["10.0.0.1"]));
        name.becomes(&["10.0.0.1:1"]).await;
        name.says("fish", ips(&["10.0.0.2", "10.0.0.3"]));
        name.becomes(&["10.0.0.2:1", "10.0.0.3:1"]).await;
        name.is_asked(5).await;
        // The last question was asked in this moment: those before it took their time.
        let asked = name.asked();
        let at_most = begun.elapsed().as_millis() / FAST.resolved.as_millis() + 1;
        assert!(asked as u128 <= at_most, "{asked} questions, {at_most} intervals");
        assert_eq!((PACE.resolved, PACE.answer_within), (Duration::from_secs(5), Duration::from_secs(5)));
    }

    #[tokio::test]
    async fn failure_keeps_last_targets() {
        let mut name = Followed::host(FAST, ips(&["10.0.0.1"]));
        name.becomes(&["10.0.0.1:1"]).await;
        for says in [Says::Error("NXDOMAIN"), Says::Error("SERVFAIL"), ips(&[]), Says::Nothing] {
            name.says("fish", says);
            name.is_asked(3).await;
            name.is(&["10.0.0.1:1"]);
        }
        name.says("fish", ips(&["10.0.0.2"]));
        name.becomes(&["10.0.0.2:1"]).await;
    }

    #[tokio::test]
    async fn silent_resolver_is_asked_again() {
        let mut name = Followed::host(SLOW, Says::Nothing);
        name.is_asked(2).await;
        name.says("fish", ips(&["10.0.0.1"]));
        name.becomes(&["10.0.0.1:1"]).await;
    }

    #[tokio::test]
    async fn unresolved_name_is_retried_soon() {
        let mut name = Followed::host(SLOW, Says::Error("NXDOMAIN"));
        name.is_asked(3).await;
        name.says("fish", ips(&["10.0.0.1"]));
        name.becomes(&["10.0.0.1:1"]).await;
    }

    #[tokio::test]
    async fn re_resolution_is_early_but_bounded() {
        let mut name = Followed::host(SLOW, ips(&["10.0.0.1"]));
        name.becomes(&["10.0.0.1:1"]).await;
        name.says("fish", ips(&["10.0.0.2"]));
        name.re_resolution.request();
        name.becomes(&["10.0.0.2:1"]).await;
        let (begun, before) = (Instant::now(), name.asked());
        while begun.elapsed() < Duration::from_millis(100) {
            name.re_resolution.request();
            tokio::task::yield_now().await;
        }
        let asked = name.asked() - before;
        let at_most = begun.elapsed().as_millis() / SLOW.unresolved.as_millis() + 1;
        assert!(asked >= 1 && asked as u128 <= at_most, "{asked} questions, {at_most} intervals");
    }

    #[tokio::test]
    async fn rotated_answer_is_no_change() {
        let mut name = Followed::host(FAST, ips(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
        name.becomes(&["10.0.0.1:1", "10.0.0.2:1"]).await;
        name.targets.mark_unchanged();
        name.says("fish", ips(&["10.0.0.1", "10.0.0.2"]));
        name.is_asked(3).await;
        assert!(!name.targets.has_changed().unwrap());
    }

    #[tokio::test]
    async fn srv_records_give_ports_and_weights() {
        let mut other = record(0, 30, "b");
        other.port = 9;
        let hosts = [("a", ips(&["10.0.0.1"])), ("b", ips(&["10.0.0.2"]))];
        let mut name = Followed::srv(vec![record(0, 10, "a"), other], hosts);
        name.becomes(&["10.0.0.1:1 weight=10", "10.0.0.2:9 weight=30"]).await;
    }

    #[tokio::test]
    async fn higher_priority_is_only_a_fallback() {
        let hosts = [("a", ips(&["10.0.0.1"])), ("b", ips(&["10.0.0.2"]))];
        let mut name = Followed::srv(vec![record(10, 1, "a"), record(20, 1, "b")], hosts);
        name.becomes(&["10.0.0.1:1"]).await;
        name.records(Says::This(vec![record(10, 1, "gone"), record(20, 1, "b")]));
        name.becomes(&["10.0.0.2:1"]).await;
        name.records(Says::This(vec![record(10, 1, "a"), record(20, 1, "b")]));
        name.becomes(&["10.0.0.1:1"]).await;
    }

    #[tokio::test]
    async fn unresolved_host_stays_and_unlisted_goes() {
        let hosts = [("a", ips(&["10.0.0.1"])), ("b", ips(&["10.0.0.2"]))];
        let mut name = Followed::srv(vec![record(0, 1, "a"), record(0, 1, "b")], hosts);
        name.becomes(&["10.0.0.1:1", "10.0.0.2:1"]).await;
        name.says("b", Says::Error("SERVFAIL"));
        name.is_asked(9).await;
        name.is(&["10.0.0.1:1", "10.0.0.2:1"]);
        name.records(Says::This(vec![record(0, 1, "a")]));
        name.becomes(&["10.0.0.1:1"]).await;
    }

    #[tokio::test]
    async fn srv_failure_keeps_last_targets() {
        let mut name = Followed::srv(vec![record(0, 1, "a")], [("a", ips(&["10.0.0.1"]))]);
        name.becomes(&["10.0.0.1:1"]).await;
        let not_there = Says::This(vec![record(0, 1, ".")]);
        for says in [Says::Error("NXDOMAIN"), Says::This(vec![]), not_there, Says::Nothing] {
            name.records(says);
            name.is_asked(3).await;
            name.is(&["10.0.0.1:1"]);
        }
    }
}
