//! The harness: a world is one mesh's sessions on one store, seen by two clones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_embedded::Database;

use crate::attribute::{Attributes, Change, Value};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::event::{Cursor, Kind, Notice};
use crate::keyring::{Hash, Keyring};
use crate::session::Session;
use crate::sessions::{Create, Issued, Sessions, Target};
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::RedisStore;
use crate::token::SessionId;
use crate::watch::{Told, Watch};

/// Whatever a check waits for happens within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far a clock that is moved by hand goes with each look.
const STEP: Duration = Duration::from_millis(10);

/// Makes worlds on one kind of store.
pub(crate) trait Make {
    type Store: Peek;

    fn world(&self, config: Config) -> impl Future<Output = World<Self::Store>> + Send;
}

/// What tests may look at and callers may not.
pub(crate) trait Peek: Store {
    fn index_entries(&self, bucket: u8, user: &str) -> impl Future<Output = usize> + Send;

    /// A use that is worth recording.
    fn touch_now(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

pub(crate) struct World<S> {
    pub(crate) sessions: Sessions<S>,
    /// Another clone.
    pub(crate) other: Sessions<S>,
    /// Moved by hand; none: the store's clock goes by itself.
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
        let store =
            EmbeddedStore::new(db, Arc::new(Keyring::generate()), config.policy(), clock.clone()).unwrap();
        let sessions = Sessions { store, config: Arc::new(config) };
        World { other: sessions.clone(), sessions, clock: Some(clock) }
    }
}

impl Redis {
    /// The engine whose address the variable holds.
    pub(crate) fn at(variable: &str) -> Option<Redis> {
        match std::env::var(variable) {
            Ok(url) => Some(Redis { url }),
            Err(_) if std::env::var_os("SHOAL_TEST_REQUIRE").is_some() => panic!("{variable} is not set"),
            Err(_) => {
                eprintln!("SKIPPED: {variable} is not set");
                None
            }
        }
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
        let clone = || {
            let store = RedisStore::open(&self.url, &config, None).unwrap();
            Sessions { store, config: Arc::new(config.clone()) }
        };
        World { sessions: clone(), other: clone(), clock: None }
    }
}

impl Peek for EmbeddedStore {
    async fn index_entries(&self, _bucket: u8, _user: &str) -> usize {
        EmbeddedStore::index_entries(self)
    }

    async fn touch_now(&self, id: SessionId, presented: Vec<Hash>) -> Result<(), Error> {
        EmbeddedStore::touch_now(self, id, presented).await
    }
}

impl Peek for RedisStore {
    async fn index_entries(&self, bucket: u8, user: &str) -> usize {
        RedisStore::index_entries(self, bucket, user).await
    }

    async fn touch_now(&self, id: SessionId, _presented: Vec<Hash>) -> Result<(), Error> {
        RedisStore::touch_now(self, id).await
    }
}

impl<S: Peek> World<S> {
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

    pub(crate) async fn bucket_of(&self, user: &str) -> u8 {
        self.sessions.store.keyring().await.unwrap().bucket_of(user)
    }

    pub(crate) async fn index_entries(&self, user: &str) -> usize {
        self.sessions.store.index_entries(self.bucket_of(user).await, user).await
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
    pub(crate) async fn next(&mut self) -> Told {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("an event in time").unwrap()
    }

    /// The next event's kind and session.
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
