//! Chooses the store that the endpoints of an upstream must share. Clones of a role that see different stores would give
//! different answers: calls must not be balanced over both.
//!
//! The store on which an endpoint has served longest, by the endpoints' own reports, is kept. So all balancers of all processes
//! come to the same choice from the same reports. One value of [`Stores`] is shared by the balancers of one upstream in a
//! process: its cores must not differ while they connect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The time an endpoint stays in use beside the others after its store changed while it served. Clones look at their store's
/// name once a minute: after a store was emptied, all have noticed by then.
const TOLERATED: Duration = Duration::from_secs(75);

/// The time the calls of a store whose last endpoint was lost without notice wait for it to come back, before another store is
/// taken. A connection that breaks for a moment must not send users to the wrong store.
const HELD: Duration = Duration::from_secs(5);

/// The store behind an endpoint, by its own report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// The engine, for people: `redis 10.0.0.5:6379/0`. Empty if not reported.
    pub engine: String,
    /// The store's own name, the same for all clones that see that store. Empty if not known.
    pub store: String,
    /// The time since which the endpoint has served on this store, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// The state of an endpoint as one balancer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The endpoint serves on a store that it names.
    Serving(Backing),
    /// The endpoint reports that it does not serve, is no longer a target, or does not name a store.
    Left,
    /// The endpoint is not connected.
    Lost,
}

/// The stores of one upstream.
#[derive(Debug, Default)]
pub struct Stores {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    balancers: u64,
    seen: BTreeMap<(u64, SocketAddr), Seen>,
    kept: Option<Kept>,
    refused: BTreeSet<SocketAddr>,
    /// The time at which the choice changes without any report.
    next: Option<Instant>,
}

/// A serving endpoint of one balancer.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    backing: Backing,
    /// The store it served on before, and until when that counts.
    before: Option<(String, Instant)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Kept {
    backing: Backing,
    /// The endpoint that has served longest on it.
    address: SocketAddr,
    /// Set while no endpoint is left: the time until which they are awaited.
    until: Option<Instant>,
}

impl Stores {
    /// Registers another balancer and returns its number.
    pub(crate) fn join(&self) -> u64 {
        let mut state = self.state();
        state.balancers += 1;
        state.balancers
    }

    /// Records what a balancer sees of all its endpoints. Returns those that must not be used, each with the reason.
    pub(crate) fn update(
        &self,
        upstream: &str,
        balancer: u64,
        sights: &BTreeMap<SocketAddr, Sight>,
        now: Instant,
    ) -> BTreeMap<SocketAddr, String> {
        let mut state = self.state();
        let names_store = sights.values().any(|sight| matches!(sight, Sight::Serving(_)));
        if !names_store && state.seen.is_empty() && state.kept.is_none() {
            return BTreeMap::new();
        }
        let next = state.next;
        let news = state.take_in(balancer, sights, now);
        let change = state.choose(now);
        change.tell(upstream, &state);
        if news || !change.is_none() || state.next != next {
            self.version.send_modify(|version| *version += 1);
        }
        state.refusals(sights)
    }

    /// Returns a receiver that is notified of every change of the choice.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Resolves when the choice may have changed by time alone.
    pub(crate) async fn due(&self) {
        let next = self.state().next;
        match next {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records the reports of one balancer. Returns whether anything changed.
    fn take_in(&mut self, balancer: u64, sights: &BTreeMap<SocketAddr, Sight>, now: Instant) -> bool {
        let mut news = false;
        let mut lost = Vec::new();
        self.seen.retain(|(of, address), seen| {
            let sight =
                if *of == balancer { sights.get(address).unwrap_or(&Sight::Left) } else { return true };
            if *sight == Sight::Lost {
                lost.push(seen.backing.store.clone());
            }
            let stays = matches!(sight, Sight::Serving(_));
            news |= !stays;
            stays
        });
        for (address, sight) in sights {
            let Sight::Serving(backing) = sight else { continue };
            let known = self.seen.get(&(balancer, *address));
            let before = match known {
                Some(seen) if seen.backing == *backing => continue,
                Some(seen) if seen.backing.store == backing.store => seen.before.clone(),
                Some(seen) => Some((seen.backing.store.clone(), now + TOLERATED)),
                None => None,
            };
            news = true;
            self.seen.insert((balancer, *address), Seen { backing: backing.clone(), before });
        }
        let serves = |store: &str| self.seen.values().any(|seen| seen.backing.store == store);
        if let Some(kept) = &mut self.kept {
            let is_lost = lost.contains(&kept.backing.store);
            if serves(&kept.backing.store) {
                kept.until = None;
            } else if kept.until.is_none() && is_lost {
                kept.until = Some(now + HELD);
            }
        }
        news
    }

    /// Chooses the store that is kept, and the endpoints that are refused.
    fn choose(&mut self, now: Instant) -> Change {
        let is_held = self.kept.as_ref().is_some_and(|kept| kept.until.is_some_and(|until| now < until));
        let before = (self.kept.clone(), self.refused.clone());
        if !is_held {
            let longest = self
                .seen
                .iter()
                .min_by_key(|((_, address), seen)| (seen.backing.since_ms, &seen.backing.store, *address));
            self.kept = longest.map(|((_, address), seen)| Kept {
                backing: seen.backing.clone(),
                address: *address,
                until: None,
            });
        }
        let kept = self.kept.as_ref();
        let mut next = kept.and_then(|kept| kept.until);
        let mut refused = BTreeSet::new();
        for ((_, address), seen) in &self.seen {
            let Some(kept) = kept.filter(|kept| kept.backing.store != seen.backing.store) else { continue };
            match &seen.before {
                Some((store, until)) if *store == kept.backing.store && now < *until => {
                    next = Some(next.map_or(*until, |next| next.min(*until)));
                }
                _ => {
                    refused.insert(*address);
                }
            }
        }
        (self.refused, self.next) = (refused, next);
        let store = |kept: &Option<Kept>| kept.as_ref().map(|kept| kept.backing.store.clone());
        Change {
            kept_before: (store(&before.0) != store(&self.kept)).then_some(before.0),
            added: self.refused.difference(&before.1).copied().collect(),
            removed: before.1.difference(&self.refused).copied().collect(),
        }
    }

    fn refusals(&self, sights: &BTreeMap<SocketAddr, Sight>) -> BTreeMap<SocketAddr, String> {
        let Some(kept) = &self.kept else { return BTreeMap::new() };
        let refused = self.refused.iter().filter(|address| sights.contains_key(address));
        refused
            .map(|address| {
                let reason = format!(
                    "it uses another store than {}, which has served longest; configure the same engine for both",
                    kept.address
                );
                (*address, reason)
            })
            .collect()
    }
}

/// The difference between two choices.
struct Change {
    /// The store kept before, if it changed.
    kept_before: Option<Option<Kept>>,
    added: Vec<SocketAddr>,
    removed: Vec<SocketAddr>,
}

impl Change {
    fn is_none(&self) -> bool {
        self.kept_before.is_none() && self.added.is_empty() && self.removed.is_empty()
    }

    /// Logs the change once for all balancers.
    fn tell(&self, upstream: &str, state: &State) {
        let Some(kept) = &state.kept else { return };
        if let Some(Some(before)) = &self.kept_before {
            tracing::warn!(
                upstream,
                from = before.backing.engine,
                to = kept.backing.engine,
                "switched to another store: no clone serves on the previous one, or a clone has served longer on this one"
            );
        }
        for address in &self.added {
            let engine = state.seen.iter().find(|((_, known), _)| known == address);
            tracing::warn!(
                upstream,
                endpoint = %address,
                engine = engine.map_or("", |(_, seen)| seen.backing.engine.as_str()),
                kept = %kept.address,
                kept_engine = kept.backing.engine,
                "clones see different stores: this one gets no calls, since the other has served longer; configure \
                 the same engine for both"
            );
        }
        for address in &self.removed {
            tracing::info!(upstream, endpoint = %address, "clone gets calls again: it no longer uses another store");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn on(store: &str, since_ms: u64) -> Sight {
        Sight::Serving(Backing { engine: format!("redis {store}"), store: store.to_owned(), since_ms })
    }

    /// Returns the ports of `sights` that the balancer must not use.
    fn refused(stores: &Stores, balancer: u64, sights: &[(u16, Sight)], now: Instant) -> Vec<u16> {
        let sights = sights.iter().map(|(port, sight)| (address(*port), sight.clone())).collect();
        stores.update("fish", balancer, &sights, now).keys().map(SocketAddr::port).collect()
    }

    #[test]
    fn keeps_longest_serving_store() {
        let (stores, now) = (Stores::default(), Instant::now());
        let all = [(1, on("b", 20)), (2, on("a", 10)), (3, on("b", 30)), (4, on("b", 40))];
        assert_eq!(refused(&stores, 1, &all, now), [1, 3, 4]);
        // The same moment: the names decide, as they do everywhere.
        assert_eq!(refused(&Stores::default(), 1, &[(1, on("b", 5)), (2, on("a", 5))], now), [1]);
        assert_eq!(refused(&Stores::default(), 1, &[(1, on("a", 5)), (2, on("a", 9))], now), [0; 0]);
        assert_eq!(refused(&Stores::default(), 1, &[(1, Sight::Left), (2, on("a", 9))], now), [0; 0]);
    }

    #[test]
    fn balancers_refuse_the_same_endpoints() {
        let (stores, now) = (Stores::default(), Instant::now());
        assert_eq!(refused(&stores, 1, &[(1, on("b", 20))], now), [0; 0]);
        // Another core is connected to one that serves longer; the first core is told.
        let mut changed = stores.changed();
        changed.mark_unchanged();
        assert_eq!(refused(&stores, 2, &[(2, on("a", 10))], now), [0; 0]);
        assert!(changed.has_changed().expect("open"));
        changed.mark_unchanged();
        assert_eq!(refused(&stores, 1, &[(1, on("b", 20))], now), [1]);
        assert!(!changed.has_changed().expect("open"), "nothing new: no core need look again");
    }

    #[test]
    fn announced_leave_changes_store_at_once() {
        for last in [vec![(1, Sight::Left), (2, on("b", 20))], vec![(2, on("b", 20))]] {
            let (stores, now) = (Stores::default(), Instant::now());
            assert_eq!(refused(&stores, 1, &[(1, on("a", 10)), (2, on("b", 20))], now), [2]);
            assert_eq!(refused(&stores, 1, &last, now), [0; 0]);
        }
    }

    #[test]
    fn lost_connection_holds_the_store() {
        let (stores, now) = (Stores::default(), Instant::now());
        assert_eq!(refused(&stores, 1, &[(1, on("a", 10)), (2, on("b", 20))], now), [2]);
        let lost = [(1, Sight::Lost), (2, on("b", 20))];
        assert_eq!(refused(&stores, 1, &lost, now), [2]);
        assert_eq!(refused(&stores, 1, &lost, now + HELD / 2), [2]);
        assert_eq!(refused(&stores, 1, &[(1, on("a", 10)), (2, on("b", 20))], now + HELD), [2]);
        // This time it stays away.
        assert_eq!(refused(&stores, 1, &lost, now + HELD), [2]);
        assert_eq!(stores.state().next, Some(now + 2 * HELD));
        assert_eq!(refused(&stores, 1, &lost, now + 2 * HELD), [0; 0]);
        assert_eq!(refused(&stores, 1, &[(1, on("a", 10)), (2, on("b", 20))], now + 3 * HELD), [2]);
    }

    #[test]
    fn emptied_store_refuses_no_endpoint() {
        let (stores, now) = (Stores::default(), Instant::now());
        let all = |first: Sight, second: Sight| [(1, first), (2, second)];
        assert_eq!(refused(&stores, 1, &all(on("a", 10), on("a", 20)), now), [0; 0]);
        // Each sees it in its own time.
        assert_eq!(refused(&stores, 1, &all(on("b", 30), on("a", 20)), now), [0; 0]);
        assert_eq!(refused(&stores, 1, &all(on("b", 30), on("b", 40)), now + TOLERATED / 2), [0; 0]);
        assert_eq!(refused(&stores, 1, &all(on("b", 30), on("b", 40)), now + 2 * TOLERATED), [0; 0]);
        assert_eq!(stores.state().next, None);
        // One that never does has really another store.
        assert_eq!(refused(&stores, 1, &all(on("b", 30), on("c", 50)), now), [0; 0]);
        assert_eq!(stores.state().next, Some(now + TOLERATED));
        assert_eq!(refused(&stores, 1, &all(on("b", 30), on("c", 50)), now + TOLERATED), [2]);
    }
}
