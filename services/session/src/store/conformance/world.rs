//! The harness: a world is one mesh's sessions on one store, seen by two clones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_embedded::Database;
use shoal_redis_link::LinkConfig;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::event::{Cursor, Kind, Notice};
use crate::id::SessionId;
use crate::keys::keyring::{Hash, Keyring};
use crate::session::Session;
use crate::session::attribute::{Attributes, Change, Value};
use crate::sessions::{Create, Issued, Sessions, Target};
use crate::store::Store;
use crate::store::embedded::{EmbeddedKeys, EmbeddedStore};
use crate::store::keys::KeySource;
use crate::store::redis::RedisStore;
use crate::watch::{Watch, WatchMessage};

/// The longest wait of a check.
const PATIENCE: Duration = Duration::from_secs(20);
/// The step of a clock that is moved by hand, with each look.
const STEP: Duration = Duration::from_millis(10);

/// Makes worlds on one kind of store.
pub(crate) trait Make {
    type Store: Peek;

    fn world(&self, config: Config) -> impl Future<Output = World<Self::Store>> + Send;

    /// Opens two new clones on the store of a world whose clones are gone.
    fn reopen(&self, world: World<Self::Store>) -> World<Self::Store>;
}

/// The views of a store that tests have and callers have not.
pub(crate) trait Peek: Store {
    /// Counts the entries of all expiry indexes and of these users' own.
    fn index_entries(&self, users: &[(u8, String)]) -> impl Future<Output = usize> + Send;

    /// Returns whether the store holds anything for a session, readable or not.
    fn holds(&self, id: SessionId) -> impl Future<Output = bool> + Send;

    /// Presents a token and records the use, due or not.
    fn touch_now(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

pub(crate) struct World<S> {
    pub(crate) sessions: Sessions<S>,
    /// The sessions at another clone.
    pub(crate) other: Sessions<S>,
    /// The clock that is moved by hand; `None`: the store's own clock goes by itself.
    clock: Option<Clock>,
}

pub(crate) struct Embedded;

pub(crate) struct Redis {
    url: String,
}

impl Make for Embedded {
    type Store = EmbeddedStore;

    async fn world(&self, config: Config) -> World<EmbeddedStore> {
        let (db, clock) = (Database::ephemeral().unwrap(), Clock::manual());
        let keys = EmbeddedKeys::new(&db, Arc::new(Keyring::generate()), clock.clone()).unwrap();
        let store = EmbeddedStore::new(db, config.policy(), clock.clone()).unwrap();
        let sessions = Sessions { store, keys: KeySource::Embedded(keys), config: Arc::new(config) };
        World { other: sessions.clone(), sessions, clock: Some(clock) }
    }

    fn reopen(&self, world: World<EmbeddedStore>) -> World<EmbeddedStore> {
        world
    }
}

impl Redis {
    /// Returns the engine whose address the variable holds.
    pub(crate) fn at(variable: &str) -> Option<Redis> {
        shoal_testing::engine_of(variable).map(|url| Redis { url })
    }

    /// Returns an engine of a test's own.
    pub(crate) fn of(url: String) -> Redis {
        Redis { url }
    }

    fn clone_of(&self, config: &Config) -> Sessions<RedisStore> {
        let link = LinkConfig {
            connections: config.redis_connections,
            call_deadline: config.redis_deadline,
            finish_moves: config.redis_finish_moves,
            ..LinkConfig::new(&self.url, "session")
        };
        let store = RedisStore::open(link, config, None).unwrap();
        Sessions { keys: KeySource::Redis(store.keys()), store, config: Arc::new(config.clone()) }
    }
}

impl Make for Redis {
    type Store = RedisStore;

    async fn world(&self, config: Config) -> World<RedisStore> {
        let config = Config {
            key_prefix: format!("test-{}:", uuid::Uuid::new_v4().simple()),
            // Tests are about what holds, not how soon: the machine may be busy.
            redis_deadline: Duration::from_secs(10),
            ..config
        };
        World { sessions: self.clone_of(&config), other: self.clone_of(&config), clock: None }
    }

    fn reopen(&self, world: World<RedisStore>) -> World<RedisStore> {
        let config = Config::clone(&world.sessions.config);
        drop(world);
        World { sessions: self.clone_of(&config), other: self.clone_of(&config), clock: None }
    }
}

impl Peek for EmbeddedStore {
    async fn holds(&self, id: SessionId) -> bool {
        EmbeddedStore::holds(self, id)
    }

    async fn index_entries(&self, _users: &[(u8, String)]) -> usize {
        EmbeddedStore::index_entries(self)
    }

    async fn touch_now(&self, id: SessionId, presented: Vec<Hash>) -> Result<(), Error> {
        EmbeddedStore::touch_now(self, id, presented).await
    }
}

impl Peek for RedisStore {
    async fn holds(&self, id: SessionId) -> bool {
        RedisStore::holds(self, id).await
    }

    async fn index_entries(&self, users: &[(u8, String)]) -> usize {
        RedisStore::index_entries(self, users).await
    }

    async fn touch_now(&self, id: SessionId, presented: Vec<Hash>) -> Result<(), Error> {
        RedisStore::touch_now(self, id, &presented).await
    }
}

impl<S: Peek> World<S> {
    /// Returns both clones with keys that were changed.
    pub(crate) fn with_keyring(self, keyring: Keyring) -> Self {
        let keyring = Arc::new(keyring);
        let with = |sessions: &Sessions<S>| Sessions {
            store: sessions.store.clone(),
            keys: sessions.keys.with_keyring(Arc::clone(&keyring)),
            config: Arc::clone(&sessions.config),
        };
        World { sessions: with(&self.sessions), other: with(&self.other), clock: self.clock.clone() }
    }

    pub(crate) async fn create(&self, user: &str) -> Issued {
        self.sessions.create(Create { user: user.to_owned(), ..Create::default() }).await.unwrap()
    }

    pub(crate) async fn get(&self, token: &str) -> Result<Session, Error> {
        self.other.get(token, false).await
    }

    pub(crate) async fn set(&self, token: &str, name: &str, value: i64) -> Result<Session, Error> {
        self.sessions.update(token, change(&[(name, value)], &[]), None).await
    }

    pub(crate) async fn rotate(&self, token: &str) -> String {
        self.sessions.rotate(token, Change::default()).await.unwrap().token
    }

    pub(crate) async fn revoke(&self, token: &str) {
        self.sessions.revoke(Target::Token(token.to_owned())).await.unwrap();
    }

    pub(crate) async fn list(&self, user: &str) -> Vec<Session> {
        self.other.list(user.to_owned(), 100, "").await.unwrap().0
    }

    pub(crate) async fn index_entries(&self, user: &str) -> usize {
        self.index_entries_of(&[user.to_owned()]).await
    }

    pub(crate) async fn index_entries_of(&self, users: &[String]) -> usize {
        let keyring = self.sessions.keys.keyring().await.unwrap();
        let users: Vec<_> = users.iter().map(|user| (keyring.bucket_of(user), user.clone())).collect();
        self.sessions.store.index_entries(&users).await
    }

    pub(crate) async fn watch(&self, user: &str, resume: Option<&str>) -> Watching<S> {
        let resume = resume.map(|token| Cursor::decode(token).expect("a resume token"));
        Watching(self.other.watch(user.to_owned(), resume).await.unwrap())
    }

    /// Lets time pass.
    pub(crate) async fn tick(&self) {
        match &self.clock {
            Some(clock) => clock.advance(STEP),
            None => tokio::time::sleep(STEP).await,
        }
    }

    /// Lets a long time pass, where the clock can be moved; elsewhere a moment.
    pub(crate) async fn pass(&self, long: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(long),
            None => self.tick().await,
        }
    }

    /// Lets time pass until `done`.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut done: impl FnMut() -> F,
    ) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = done().await {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
            self.tick().await;
        }
    }

    /// Lets time pass until a get without a touch finds nothing.
    pub(crate) async fn until_gone(&self, token: &str) {
        self.until("the end of the session", || async {
            (self.get(token).await == Err(Error::NotFound)).then_some(())
        })
        .await;
    }
}

pub(crate) struct Watching<S: Store>(Watch<S>);

impl<S: Store> Watching<S> {
    pub(crate) async fn next(&mut self) -> WatchMessage {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("an event in time").unwrap()
    }

    /// Waits for the next event; returns its kind and session.
    pub(crate) async fn event(&mut self) -> (Kind, String) {
        match self.next().await.notice {
            Notice::Event(event) => (event.kind, event.session.to_string()),
            gap @ Notice::Gap { .. } => panic!("{gap:?}"),
        }
    }
}

pub(crate) fn change(set: &[(&str, i64)], remove: &[&str]) -> Change {
    Change { set: ints(set), remove: remove.iter().map(|name| (*name).to_owned()).collect() }
}

pub(crate) fn ints(set: &[(&str, i64)]) -> Attributes {
    set.iter().map(|(name, value)| ((*name).to_owned(), Value::Int(*value))).collect()
}
