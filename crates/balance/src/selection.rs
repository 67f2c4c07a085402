//! What is picked from: the endpoints that take calls, as one immutable list, and the rule by which one of them is chosen.
//!
//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): of two drawn by
//! weight, the cheaper one. Takes no lock and allocates nothing. Pure: time and randomness are given.

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

/// The endpoints of one moment.
#[derive(Debug)]
pub(crate) struct Selection {
    members: Box<[Member]>,
    alias_table: AliasTable,
    /// Calls that its members' servers allow at once, on the connections there are and those that can be had.
    allowed: u64,
    /// Ejected ones that are connected and serving: each is given one call when its time has come.
    ejected: Box<[Member]>,
}

/// An endpoint that takes calls.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
    /// Its connections, the oldest first.
    pub(crate) connections: Arc<[Arc<Connection>]>,
    /// Its weight beside the mean of all.
    share: f64,
}

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) member: &'a Member,
    /// The call decides whether an ejected endpoint comes back.
    pub(crate) probe: bool,
    /// It has room for one more stream. If not, nobody has.
    pub(crate) room: bool,
}

impl Member {
    /// Calls that its server allows at once, on the connections there are and, if more can be had, on so many.
    fn allowed(&self, connections_max: usize) -> u64 {
        let limits = self.connections.iter().map(|connection| u64::from(connection.streams.limit()));
        let further = match self.load.connection_demand.can_grow() {
            true => connections_max.saturating_sub(self.connections.len()) as u64,
            false => 0,
        };
        // Those not made yet will allow what the oldest does.
        limits.clone().sum::<u64>() + further * limits.clone().next().unwrap_or(0)
    }

    /// Returns `endpoint` as it is picked from, while it is ready.
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

    /// Of those that are connected and serving by their own word, out of `endpoints` that are known: the ejected are left out,
    /// unless fewer than `panic_threshold` of all would be left (Envoy, "Panic threshold").
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

    /// Calls that the servers allow at once.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    /// How many of those there are. Counts over all connections.
    pub(crate) fn in_use(&self) -> u64 {
        let connections = self.members.iter().flat_map(|member| member.connections.iter());
        connections.map(|connection| u64::from(connection.streams.in_use())).sum()
    }

    /// Those that take calls.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Chooses one whose address is not in `exclude`, or `None` when there is none. `has_room` says whether an endpoint
    /// can take one more call at once.
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
            // Both are full: whoever is not, however dear. A call must not wait where another could go at once.
            let from = rng.usize(..self.members.len());
            let (before, after) = self.members.split_at(from);
            let mut others = after.iter().chain(before);
            others.find(|member| !exclude.contains(&member.address) && has_room(member))
        });
        let room = with_room.is_some();
        Some(Choice { member: with_room.unwrap_or(chosen), probe: false, room })
    }

    /// Two that are not excluded, by weight; the same one twice when there is but one. Counts over the whole list: for the
    /// calls that are repeated.
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
            // Rounding may leave a little of the last one's share.
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

    /// Endpoints on a clock that stands still.
    struct Endpoints {
        loads: Vec<Arc<Load>>,
        /// With those that are not connected.
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

        /// How often each is chosen, while no call is in flight.
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

    /// Each count is within five standard deviations of what it should be.
    #[track_caller]
    fn near(counts: &[u32], expected: &[f64]) {
        for (count, expected) in counts.iter().zip(expected) {
            let expected = expected * f64::from(PICKS);
            let off = (f64::from(*count) - expected).abs();
            assert!(off <= 5.0 * expected.sqrt() + 1.0, "seed {SEED}: {counts:?}, not {expected}");
        }
    }

    #[test]
    fn equals_are_chosen_evenly() {
        near(&Endpoints::of(&[1; 5]).spread(&[], |_| true), &[0.2; 5]);
    }

    #[test]
    fn the_cheaper_of_two_always_wins_and_the_dearest_of_many_never_does() {
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
    fn idle_endpoints_share_by_weight_and_the_light_one_is_not_forgotten() {
        near(&Endpoints::of(&[1, 3]).spread(&[], |_| true), &[0.25, 0.75]);
        near(&Endpoints::of(&[65_535, 32_768]).spread(&[], |_| true), &[2.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn busy_endpoints_share_by_weight_too() {
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
    fn an_excluded_one_is_never_chosen_however_cheap() {
        let endpoints = Endpoints::of(&[1, 1, 1, 2]);
        let counts = endpoints.spread(&[0], |_| true);
        near(&counts, &[0.0, 0.25, 0.25, 0.5]);
        assert_eq!(endpoints.spread(&[0, 1, 3], |_| true), [0, 0, PICKS, 0]);
        assert_eq!(endpoints.spread(&[0, 1, 2, 3], |_| true), [0; 4]);
        assert_eq!(Endpoints::of(&[]).spread(&[], |_| true), [0; 0]);
    }

    #[test]
    fn a_newcomer_gets_a_tenth_of_its_share_beside_old_ones() {
        let endpoints = Endpoints::of(&[1, 1]);
        endpoints.loads[0].joined(None, endpoints.now);
        near(&endpoints.spread(&[], |_| true), &[0.05, 0.95]);
    }

    #[test]
    fn where_all_are_new_none_is_slow() {
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
    fn a_full_one_is_passed_over_for_any_that_has_room() {
        let endpoints = Endpoints::of(&[1; 5]);
        for _ in 0..9 {
            endpoints.loads[4].start(endpoints.now);
        }
        assert_eq!(endpoints.spread(&[], |index| index == 4), [0, 0, 0, 0, PICKS]);
        assert_eq!(endpoints.spread(&[4], |index| index == 4)[4], 0, "an excluded one stays excluded");
        near(&endpoints.spread(&[], |_| false), &[0.25, 0.25, 0.25, 0.25, 0.0]);
    }

    #[test]
    fn an_ejected_one_gets_one_call_when_its_time_has_come() {
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
    fn below_half_available_the_ejected_are_used_too() {
        for (known, ejected_used) in [(4, false), (5, true)] {
            let mut endpoints = Endpoints::of(&[1; 3]);
            endpoints.known = known;
            endpoints.loads[1].outlier.eject("test", endpoints.now);
            let used = endpoints.spread(&[], |_| true)[1] > 0;
            assert_eq!(used, ejected_used, "two of {known} are left");
        }
    }
}
