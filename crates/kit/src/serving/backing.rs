//! The engine behind a clone: what it is called, which store it is, and whether the clone has reached it since it started.
//!
//! A clone that never reached its engine does not serve: it may have been told the wrong address. One that lost it goes on
//! serving: it answers at once, and says which engine.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Says whether all is well with a clone's engine, and if not why.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Intervals at which a clone asks and watches its engine.
#[derive(Clone, Copy)]
struct Pace {
    /// The interval between two questions to the engine which store it is.
    identify: Duration,
    /// The interval between two looks whether the engine was away and is back, since it may be another one now. A look does
    /// not ask the engine.
    look: Duration,
    /// Between attempts to reach the engine for the first time: doubles up to `look`.
    first_pause: Duration,
}

const PACE: Pace = Pace {
    identify: Duration::from_secs(60),
    look: Duration::from_secs(1),
    first_pause: Duration::from_millis(50),
};

/// Asks an engine which store it is; `None` when it answers and has no name of its own. The error says why it does not answer.
pub type Identify = Arc<dyn Fn() -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// The store behind a clone.
#[derive(Clone)]
pub struct Backing {
    engine: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Own { store: String },
    Shared { identify: Identify },
}

impl Backing {
    /// A store in this process, with a name made by [`new_store_name`] when it was opened.
    pub fn own(engine: impl Into<String>, store: impl Into<String>) -> Self {
        Self { engine: engine.into(), kind: Kind::Own { store: store.into() } }
    }

    /// A store that clones in other processes see too. `engine` is its name for people, without a password.
    pub fn shared<F>(engine: impl Into<String>, identify: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync + 'static,
    {
        Self { engine: engine.into(), kind: Kind::Shared { identify: Arc::new(identify) } }
    }
}

/// Makes a name for a store, which nobody else makes.
#[must_use]
pub fn new_store_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// The knowledge of the engine behind a clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) reached: bool,
    pub(crate) store: String,
    /// The time since which the clone serves on this store, in milliseconds of Unix time.
    pub(crate) since_ms: u64,
    /// Why it was not reached yet.
    pub(crate) why: String,
}

/// The engine behind a clone, as those see it who are told of it. Cheap to clone.
#[derive(Clone)]
pub struct Probe {
    pub(crate) engine: Arc<str>,
    own: bool,
    known: watch::Sender<Known>,
    check: ReadyCheck,
}

impl Probe {
    /// Makes the probe of a clone without an engine, which always counts as reached.
    pub(crate) fn none() -> Self {
        let known = Known { reached: true, since_ms: now_ms(), ..Known::default() };
        Self { engine: "".into(), own: true, known: watch::Sender::new(known), check: Arc::new(|| Ok(())) }
    }

    pub(crate) fn of(backing: &Backing, check: ReadyCheck) -> Self {
        let known = match &backing.kind {
            Kind::Own { store } => {
                Known { reached: true, store: store.clone(), since_ms: now_ms(), why: String::new() }
            }
            Kind::Shared { .. } => Known { why: "it was not asked yet".to_owned(), ..Known::default() },
        };
        let own = matches!(backing.kind, Kind::Own { .. });
        Self { engine: backing.engine.as_str().into(), own, known: watch::Sender::new(known), check }
    }

    /// The engine's name for people: `redis 10.0.0.5:6379`.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The name the store has of itself; empty while it is not known.
    #[must_use]
    pub fn store(&self) -> String {
        self.known.borrow().store.clone()
    }

    /// Returns whether the clone has reached the engine since it started.
    #[must_use]
    pub fn was_reached(&self) -> bool {
        self.known.borrow().reached
    }

    /// Checks that the clone can take calls: it has reached its engine since it started, and a store in its own process works.
    ///
    /// # Errors
    /// With the reason.
    pub fn takes_calls(&self) -> Result<(), String> {
        let now = (self.check)();
        let known = self.known.borrow();
        if !known.reached {
            let why = now.err().unwrap_or_else(|| known.why.clone());
            return Err(format!("not reached since the start: {why}"));
        }
        if self.own { now } else { Ok(()) }
    }

    /// Checks that the engine works now.
    ///
    /// # Errors
    /// With the reason.
    pub fn well(&self) -> Result<(), String> {
        (self.check)()?;
        self.takes_calls()
    }

    #[cfg(test)]
    pub(crate) fn set_reached(&self) {
        self.known.send_modify(|known| known.reached = true);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Reaches the engine, and from then on asks it now and then which store it is. Ends at once for a store of this process.
    pub(crate) async fn follow(self, backing: Backing, clone: String) {
        self.follow_at(PACE, backing, clone).await;
    }

    async fn follow_at(self, pace: Pace, backing: Backing, clone: String) {
        let Kind::Shared { identify } = backing.kind else { return };
        let mut pause = pace.first_pause;
        let mut waited = false;
        while let Err(why) = self.ask(&identify).await {
            if !waited {
                tracing::info!(clone, engine = %self.engine, why, "the engine is not reached yet; until it is, this clone takes no calls");
            }
            waited = true;
            self.known.send_if_modified(|known| {
                let news = known.why != why;
                known.why = why;
                news
            });
            sleep(pause).await;
            pause = (pause * 2).min(pace.look);
        }
        if waited {
            tracing::info!(clone, engine = %self.engine, "the engine is reached: this clone takes calls");
        }
        loop {
            self.until_due(pace).await;
            // One that does not answer keeps the name that is known.
            let _ = self.ask(&identify).await;
        }
    }

    /// Waits until the name is to be asked again: after a while, or when the engine is back.
    async fn until_due(&self, pace: Pace) {
        // Spread, so that not all clones ask in the same second.
        let due = Instant::now() + pace.identify.mul_f64(0.8 + fastrand::f64() * 0.2);
        let mut was_away = (self.check)().is_err();
        while Instant::now() < due {
            sleep(pace.look).await;
            let is_away = (self.check)().is_err();
            if was_away && !is_away {
                return;
            }
            was_away = is_away;
        }
    }

    async fn ask(&self, identify: &Identify) -> Result<(), String> {
        let store = identify().await?;
        self.known.send_if_modified(|known| {
            let store = store.unwrap_or_else(|| known.store.clone());
            if known.reached && known.store == store {
                return false;
            }
            *known = Known { reached: true, store, since_ms: now_ms(), why: String::new() };
            true
        });
        Ok(())
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const QUICK: Pace = Pace {
        identify: Duration::from_millis(20),
        look: Duration::from_millis(2),
        first_pause: Duration::from_millis(1),
    };
    const SOON: Duration = Duration::from_secs(10);

    async fn until(known: &mut watch::Receiver<Known>, is: impl FnMut(&Known) -> bool) {
        tokio::time::timeout(SOON, known.wait_for(is)).await.expect("in time").expect("open");
    }

    #[tokio::test]
    async fn takes_calls_once_the_engine_was_reached() {
        let answer = Arc::new(Mutex::new(Err("refused".to_owned())));
        let asked = watch::Sender::new(0);
        let backing = Backing::shared("redis a:1", {
            let (answer, asked) = (answer.clone(), asked.clone());
            move || {
                asked.send_modify(|asked| *asked += 1);
                let answer = answer.lock().expect("no panic").clone();
                Box::pin(async move { answer })
            }
        });
        let probe = Probe::of(&backing, Arc::new(|| Ok(())));
        let mut known = probe.watch();
        let followed = tokio::spawn(probe.clone().follow_at(QUICK, backing, "clone".to_owned()));
        let mut counted = asked.subscribe();
        let mut asked_twice_more = async || {
            let now = *counted.borrow_and_update();
            let more = counted.wait_for(|asked| *asked >= now + 2);
            tokio::time::timeout(SOON, more).await.expect("in time").expect("open");
        };
        until(&mut known, |known| known.why == "refused").await;
        assert_eq!(probe.takes_calls(), Err("not reached since the start: refused".to_owned()));

        *answer.lock().expect("no panic") = Ok(Some("a".to_owned()));
        until(&mut known, |known| known.reached).await;
        assert_eq!((probe.takes_calls(), probe.store()), (Ok(()), "a".to_owned()));
        // What is lost later was reached.
        *answer.lock().expect("no panic") = Err("refused".to_owned());
        asked_twice_more().await;
        assert_eq!((probe.takes_calls(), probe.store()), (Ok(()), "a".to_owned()));
        *answer.lock().expect("no panic") = Ok(Some("b".to_owned()));
        until(&mut known, |known| known.store == "b").await;
        // An engine that answers without a name leaves the one before.
        *answer.lock().expect("no panic") = Ok(None);
        asked_twice_more().await;
        assert_eq!(probe.store(), "b");
        followed.abort();
    }

    #[tokio::test]
    async fn a_returned_engine_is_identified_again() {
        const SELDOM: Pace = Pace { identify: Duration::from_secs(3600), ..QUICK };
        let (away, asked) = (Arc::new(Mutex::new(false)), watch::Sender::new(0));
        let backing = Backing::shared("redis a:1", {
            let asked = asked.clone();
            move || {
                asked.send_modify(|asked| *asked += 1);
                Box::pin(async { Ok(None) })
            }
        });
        let looked = watch::Sender::new(0);
        let check: ReadyCheck = Arc::new({
            let (away, looked) = (away.clone(), looked.clone());
            move || {
                looked.send_modify(|looked| *looked += 1);
                if *away.lock().expect("no panic") { Err("away".to_owned()) } else { Ok(()) }
            }
        });
        let probe = Probe::of(&backing, check);
        let followed = tokio::spawn(probe.clone().follow_at(SELDOM, backing, "clone".to_owned()));
        let mut looks = looked.subscribe();
        let mut looked_twice_more = async || {
            let now = *looks.borrow_and_update();
            let more = looks.wait_for(|looks| *looks >= now + 2);
            tokio::time::timeout(SOON, more).await.expect("in time").expect("open");
        };
        looked_twice_more().await;
        assert_eq!(*asked.borrow(), 1, "nothing has changed");
        *away.lock().expect("no panic") = true;
        looked_twice_more().await;
        assert_eq!((probe.takes_calls(), probe.well()), (Ok(()), Err("away".to_owned())));
        *away.lock().expect("no panic") = false;
        let again = async { asked.subscribe().wait_for(|asked| *asked == 2).await.map(|_| ()) };
        tokio::time::timeout(SOON, again).await.expect("in time").expect("open");
        followed.abort();
    }

    #[test]
    fn a_failed_own_store_takes_no_calls() {
        let failed: ReadyCheck = Arc::new(|| Err("the disk is full".to_owned()));
        let probe = Probe::of(&Backing::own("embedded d", new_store_name()), failed);
        assert_eq!(probe.takes_calls(), Err("the disk is full".to_owned()));
        assert_ne!(new_store_name(), new_store_name());
    }
}
