//! The selection: an immutable list of the endpoints that take calls, and the rule by which one of them is chosen.
//!
//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): the cheaper of two
//! endpoints drawn by weight. Takes no lock and allocates nothing. Time and randomness are arguments.

mod alias_table;

use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use tokio::time::Instant;

use self::alias_table::AliasTable;
use crate::endpoint::Endpoint;
use crate::endpoint::connection::Connection;
use crate::load::Load;
use crate::load::slow_start;

/// The endpoints that take calls at one moment.
#[derive(Debug)]
pub(crate) struct Selection {
    members: Box<[Member]>,
    alias_table: AliasTable,
    /// The calls that the members' servers allow at once, on the existing connections and those that can still be made.
    allowed: u64,
    /// The ejected endpoints that are connected and serving: each gets one call when its probe is due.
    ejected: Box<[Member]>,
}

/// An endpoint that takes calls.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
    /// The connections, the oldest first.
    pub(crate) connections: Arc<[Arc<Connection>]>,
    /// The weight relative to the mean of all.
    share: f64,
}

/// The result of a choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) member: &'a Member,
    /// Set if the call decides whether an ejected endpoint is readmitted.
    pub(crate) probe: bool,
    /// Set if the member has room for one more stream. If not, no member has.
    pub(crate) room: bool,
}

impl Member {
    /// Returns how many calls its server allows at once, on the existing connections and, if more can be made, on up to
    /// `connections_max`.
    fn allowed(&self, connections_max: usize) -> u64 {
        let limits = self.connections.iter().map(|connection| u64::from(connection.streams.limit()));
        let further = match self.load.connection_demand.can_grow() {
            true => connections_max.saturating_sub(self.connections.len()) as u64,
            false => 0,
        };
        // Connections that are not made yet will allow what the oldest does.
        limits.clone().sum::<u64>() + further * limits.clone().next().unwrap_or(0)
    }

    /// Creates the member for `endpoint`, if it is ready.
    pub(crate) fn of(endpoint: &Endpoint) -> Option<Member> {
        let connections = endpoint.ready_connections()?;
        Some(Member::new(endpoint.address, endpoint.load.clone(), connections))
    }

    pub(crate) fn new(address: SocketAddr, load: Arc<Load>, connections: Arc<[Arc<Connection>]>) -> Member {
        Member { address, load, connections, share: 1.0 }
    }
}

impl Selection {
    pub(crate) fn new(mut members: Vec<Member>, ejected: Vec<Member>, connections_max: usize) -> Selection {
        let weights: Vec<u32> = members.iter().map(|member| member.load.weight()).collect();
        let mean = weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() / weights.len().max(1) as f64;
        for (member, weight) in members.iter_mut().zip(&weights) {
            member.share = f64::from(*weight) / mean;
        }
        let allowed = members.iter().map(|member| member.allowed(connections_max)).sum();
        Selection {
            members: members.into(),
            alias_table: AliasTable::new(&weights),
            allowed,
            ejected: ejected.into(),
        }
    }

    /// Creates the selection from the `serving` endpoints. The ejected are left out, unless fewer than the ratio
    /// `panic_threshold` of all known `endpoints` would be left (Envoy, "Panic threshold").
    pub(crate) fn of_serving(
        serving: Vec<Member>,
        endpoints: usize,
        panic_threshold: f64,
        connections_max: usize,
    ) -> Selection {
        let (ejected, available): (Vec<_>, Vec<_>) =
            serving.iter().cloned().partition(|member| member.load.outlier.is_ejected());
        let panic = (available.len() as f64) < panic_threshold * endpoints as f64;
        Selection::new(if panic { serving } else { available }, ejected, connections_max)
    }

    /// Returns how many calls the servers allow at once.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Returns how many of those calls are running, counted over all connections.
    pub(crate) fn in_use(&self) -> u64 {
        let connections = self.members.iter().flat_map(|member| member.connections.iter());
        connections.map(|connection| u64::from(connection.streams.in_use())).sum()
    }

    /// Returns the endpoints that take calls.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Chooses a member whose address is not in `exclude`; `None` if there is none. `has_room` returns whether an endpoint can
    /// take one more call at once.
    pub(crate) fn choose(
        &self,
        exclude: &[SocketAddr],
        now: Instant,
        rng: &mut Rng,
        has_room: impl Fn(&Member) -> bool,
    ) -> Option<Choice<'_>> {
        let probed = self
            .ejected
            .iter()
            .find(|member| !exclude.contains(&member.address) && member.load.outlier.claim_probe(now));
        if let Some(member) = probed {
            return Some(Choice { member, probe: true, room: true });
        }
        let (first, second) = if exclude.is_empty() {
            let (first, second) = self.alias_table.two(rng)?;
            (&self.members[first], &self.members[second])
        } else {
            self.two_besides(exclude, rng)?
        };
        let below = second.load.cost(second.share, now).is_below(&first.load.cost(first.share, now));
        let (chosen, other) = if below { (second, first) } else { (first, second) };
        let kept = slow_start::keeps(chosen.load.ramp(now), other.load.ramp(now), || rng.f64());
        let (chosen, other) = if kept { (chosen, other) } else { (other, chosen) };
        let with_room = [chosen, other].into_iter().find(|member| has_room(member)).or_else(|| {
            // Both are full: any member with room is taken, whatever its cost. A call must not wait where another endpoint
            // could take it at once.
            let from = rng.usize(..self.members.len());
            let (before, after) = self.members.split_at(from);
            let mut others = after.iter().chain(before);
            others.find(|member| !exclude.contains(&member.address) && has_room(member))
        });
        let room = with_room.is_some();
        Some(Choice { member: with_room.unwrap_or(chosen), probe: false, room })
    }

    /// Draws two members that are not excluded, by weight; the same one twice if there is only one. Takes time linear in the
    /// list, which only repeated calls pay.
    fn two_besides(&self, exclude: &[SocketAddr], rng: &mut Rng) -> Option<(&Member, &Member)> {
        let allowed = || self.members.iter().filter(|member| !exclude.contains(&member.address));
        let draw = |besides: Option<&Member>, rng: &mut Rng| {
            let others =
                || allowed().filter(|member| besides.is_none_or(|besides| besides.address != member.address));
            let mut point = rng.f64() * others().map(|member| member.share).sum::<f64>();
            let drawn = others().find(|member| {
                point -= member.share;
                point < 0.0
            });
            // Rounding may leave a little of the last member's share.
            drawn.or_else(|| others().next_back())
        };
        let first = draw(None, rng)?;
        Some((first, draw(Some(first), rng).unwrap_or(first)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::outlier::Probed;
    use crate::options::Options;

    const SEED: u64 = 7;
    const PICKS: u32 = 10_000;
    const MS: Duration = Duration::from_millis(1);

    /// Endpoints on a stopped clock.
    struct Endpoints {
        loads: Vec<Arc<Load>>,
        /// The number of known endpoints, including those not connected.
        known: usize,
        now: Instant,
    }

    impl Endpoints {
        fn of(weights: &[u32]) -> Endpoints {
            let now = Instant::now();
            let options = Options::new("fish", "test");
            let loads = weights.iter().map(|weight| Arc::new(Load::new(*weight, &options, now))).collect();
            Endpoints { known: weights.len(), loads, now }
        }

        fn selection(&self) -> Selection {
            let member = |(port, load): (u16, &Arc<Load>)| {
                Member::new(address(usize::from(port)), load.clone(), [].into())
            };
            let serving = (0..).zip(&self.loads).map(member).collect();
            Selection::of_serving(serving, self.known, 0.5, 8)
        }

        /// Returns how often each is chosen while no call is in flight.
        fn spread(&self, exclude: &[usize], has_room: impl Fn(usize) -> bool) -> Vec<u32> {
            let (selection, mut rng) = (self.selection(), Rng::with_seed(SEED));
            let exclude: Vec<SocketAddr> = exclude.iter().copied().map(address).collect();
            let mut counts = vec![0; self.loads.len()];
            for _ in 0..PICKS {
                let room = |member: &Member| has_room(index(member));
                if let Some(choice) = selection.choose(&exclude, self.now, &mut rng, room) {
                    counts[index(choice.member)] += 1;
                }
            }
            counts
        }
    }

    fn address(index: usize) -> SocketAddr {
        ([127, 0, 0, 1], index as u16 + 1).into()
    }

    fn index(member: &Member) -> usize {
        usize::from(member.address.port()) - 1
    }

    /// Asserts that each count is within five standard deviations of the expected one.
    #[track_caller]
    fn near(counts: &[u32], expected: &[f64]) {
        for (count, expected) in counts.iter().zip(expected) {
            let expected = expected * f64::from(PICKS);
            let off = (f64::from(*count) - expected).abs();
            assert!(off <= 5.0 * expected.sqrt() + 1.0, "seed {SEED}: {counts:?}, not {expected}");
        }
    }

    #[test]
    fn equal_endpoints_are_chosen_evenly() {
        near(&Endpoints::of(&[1; 5]).spread(&[], |_| true), &[0.2; 5]);
    }

    #[test]
    fn cheaper_of_two_always_wins() {
        let endpoints = Endpoints::of(&[1, 1]);
        endpoints.loads[0].start(endpoints.now);
        assert_eq!(endpoints.spread(&[], |_| true), [0, PICKS]);

        let endpoints = Endpoints::of(&[1, 1, 1]);
        endpoints.loads[2].start(endpoints.now);
        let counts = endpoints.spread(&[], |_| true);
        assert_eq!(counts[2], 0, "seed {SEED}: {counts:?}");
        near(&counts, &[0.5, 0.5, 0.0]);
    }

    #[test]
    fn idle_endpoints_share_by_weight() {
        near(&Endpoints::of(&[1, 3]).spread(&[], |_| true), &[0.25, 0.75]);
        near(&Endpoints::of(&[65_535, 32_768]).spread(&[], |_| true), &[2.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn busy_endpoints_share_by_weight() {
        let endpoints = Endpoints::of(&[1, 3]);
        let (selection, mut rng) = (endpoints.selection(), Rng::with_seed(SEED));
        // Nothing ends: the queues themselves are balanced.
        for _ in 0..400 {
            let choice = selection.choose(&[], endpoints.now, &mut rng, |_| true).unwrap();
            choice.member.load.start(endpoints.now);
        }
        let light = endpoints.loads[0].in_flight();
        assert!((90..=110).contains(&light), "seed {SEED}: {light} of 400");
    }

    #[test]
    fn excluded_endpoint_is_never_chosen() {
        let endpoints = Endpoints::of(&[1, 1, 1, 2]);
        let counts = endpoints.spread(&[0], |_| true);
        near(&counts, &[0.0, 0.25, 0.25, 0.5]);
        assert_eq!(endpoints.spread(&[0, 1, 3], |_| true), [0, 0, PICKS, 0]);
        assert_eq!(endpoints.spread(&[0, 1, 2, 3], |_| true), [0; 4]);
        assert_eq!(Endpoints::of(&[]).spread(&[], |_| true), [0; 0]);
    }

    #[test]
    fn newcomer_gets_a_tenth() {
        let endpoints = Endpoints::of(&[1, 1]);
        endpoints.loads[0].joined(None, endpoints.now);
        near(&endpoints.spread(&[], |_| true), &[0.05, 0.95]);
    }

    #[test]
    fn all_newcomers_share_evenly() {
        let endpoints = Endpoints::of(&[1; 4]);
        for load in &endpoints.loads {
            load.joined(None, endpoints.now);
        }
        near(&endpoints.spread(&[], |_| true), &[0.25; 4]);
        let alone = Endpoints::of(&[1]);
        alone.loads[0].joined(None, alone.now);
        assert_eq!(alone.spread(&[], |_| true), [PICKS]);
    }

    #[test]
    fn full_endpoint_is_skipped() {
        let endpoints = Endpoints::of(&[1; 5]);
        for _ in 0..9 {
            endpoints.loads[4].start(endpoints.now);
        }
        assert_eq!(endpoints.spread(&[], |index| index == 4), [0, 0, 0, 0, PICKS]);
        assert_eq!(endpoints.spread(&[4], |index| index == 4)[4], 0, "an excluded one stays excluded");
        near(&endpoints.spread(&[], |_| false), &[0.25, 0.25, 0.25, 0.25, 0.0]);
    }

    #[test]
    fn ejected_endpoint_gets_one_probe() {
        let mut endpoints = Endpoints::of(&[1; 3]);
        endpoints.loads[1].outlier.eject("test", endpoints.now);
        assert_eq!(endpoints.spread(&[], |_| true)[1], 0);
        endpoints.now += 1_000 * MS;
        assert_eq!(endpoints.spread(&[1], |_| true)[1], 0, "it failed this call already");
        assert_eq!(endpoints.spread(&[], |_| true)[1], 1);
        endpoints.loads[1].outlier.probed(endpoints.now, Probed::Well, endpoints.now);
        near(&endpoints.spread(&[], |_| true), &[1.0 / 3.0; 3]);
    }

    #[test]
    fn panic_threshold_uses_ejected_endpoints() {
        for (known, ejected_used) in [(4, false), (5, true)] {
            let mut endpoints = Endpoints::of(&[1; 3]);
            endpoints.known = known;
            endpoints.loads[1].outlier.eject("test", endpoints.now);
            let used = endpoints.spread(&[], |_| true)[1] > 0;
            assert_eq!(used, ejected_used, "two of {known} are left");
        }
    }
}
