//! The service's calls in the domain's words: this file validates requests and makes tokens from what the store answers.
//! It knows no protocol and no engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use shoal_kit::{page, reason};

use crate::config::Config;
use crate::error::Error;
use crate::event::Cursor;
use crate::id::SessionId;
use crate::keys::keyring::{Hash, Keyring};
use crate::keys::secret::Secret;
use crate::keys::token::Token;
use crate::session::attribute::{Attributes, Change, NAME_BYTES_MAX, Passed, REMOVE_MAX};
use crate::session::rotation::{RETIRED_MAX, Secrets};
use crate::session::{Created, NewSession, RequestKey, Session};
use crate::store::keys::KeySource;
use crate::store::{ListPlace, Store};
use crate::watch::Watch;

const USER_BYTES_MAX: usize = 256;
const REQUEST_ID_BYTES_MAX: usize = 128;
const PAGE_SIZE: usize = 20;
const PAGE_SIZE_MAX: usize = 100;

/// The sessions of one mesh, on some store.
#[derive(Debug, Clone)]
pub(crate) struct Sessions<S> {
    pub(crate) store: S,
    pub(crate) keys: KeySource,
    pub(crate) config: Arc<Config>,
}

/// The fields of a CreateSession.
#[derive(Debug, Clone, Default)]
pub(crate) struct Create {
    pub(crate) user: String,
    pub(crate) attributes: Attributes,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) idle_ttl: Option<Duration>,
    pub(crate) absolute_ttl: Option<Duration>,
    pub(crate) request_id: String,
}

/// A token and its session: what Create and Rotate answer.
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) session: Session,
}

/// The session to end.
pub(crate) enum Target {
    Token(String),
    Id(String),
}

impl<S: Store> Sessions<S> {
    pub(crate) async fn create(&self, create: Create) -> Result<Issued, Error> {
        valid_user(&create.user)?;
        at_most("request_id", "request_id_bytes", create.request_id.len(), REQUEST_ID_BYTES_MAX)?;
        self.valid_attributes("attributes", &create.attributes)?;
        self.valid_metadata(&create.metadata)?;
        let (idle_ttl, absolute_ttl) = self.ttls(&create)?;

        let keyring = self.keys.keyring().await?;
        let id = SessionId::random(keyring.bucket_of(&create.user));
        // A repeat must find the same secret, and nothing secret is stored: it is derived from the call and the id.
        let secret = match create.request_id.as_str() {
            "" => Secret::random(),
            request_id => first(keyring.first_secrets(&create.user, request_id, &id))?,
        };
        let new = NewSession {
            id,
            hash: first(keyring.hashes(&secret))?,
            request: request_key(&create, idle_ttl, absolute_ttl),
            user: create.user,
            attributes: create.attributes,
            metadata: create.metadata,
            idle_ttl,
            absolute_ttl,
        };
        match self.store.create(new).await? {
            Created::New(session) => {
                metrics::counter!("shoal_session_created_total").increment(1);
                Ok(issue(&keyring, id, secret, session))
            }
            Created::Repeat(record) => {
                let (id, user) = (record.session.id, &record.session.user);
                let secret = keyring
                    .first_secrets(user, &create.request_id, &id)
                    .into_iter()
                    .find(|secret| keyring.hashes(secret).contains(&record.secrets.current))
                    .ok_or(Error::RequestSpent)?;
                Ok(issue(&keyring, id, secret, record.session))
            }
        }
    }

    pub(crate) async fn get(&self, token: &str, touch: bool) -> Result<Session, Error> {
        let keyring = self.keys.keyring().await?;
        let token = parse(token, &keyring)?;
        self.store.get(token.id, keyring.hashes(&token.secret), touch).await
    }

    pub(crate) async fn update(
        &self,
        token: &str,
        change: Change,
        expected_version: Option<i64>,
    ) -> Result<Session, Error> {
        self.valid_change(&change)?;
        let keyring = self.keys.keyring().await?;
        let token = parse(token, &keyring)?;
        self.store.update(token.id, keyring.hashes(&token.secret), change, expected_version).await
    }

    pub(crate) async fn rotate(&self, token: &str, change: Change) -> Result<Issued, Error> {
        self.valid_change(&change)?;
        let keyring = self.keys.keyring().await?;
        let Token { id, secret } = parse(token, &keyring)?;
        let successors =
            keyring.successors(&id, &secret).iter().flat_map(|secret| keyring.hashes(secret)).collect();
        let record = self.store.rotate(id, keyring.hashes(&secret), successors, change).await?;
        let successor = follow(&keyring, &id, secret, &record.secrets).ok_or(Error::SuccessorLost)?;
        Ok(issue(&keyring, id, successor, record.session))
    }

    pub(crate) async fn revoke(&self, target: Target) -> Result<(), Error> {
        match target {
            Target::Id(id) => self.store.revoke(parse_id("session_id", &id)?, None).await?,
            Target::Token(token) => {
                let keyring = self.keys.keyring().await?;
                let token = parse(&token, &keyring)?;
                self.store.revoke(token.id, Some(keyring.hashes(&token.secret))).await?;
            }
        }
        count_revoked(1);
        Ok(())
    }

    /// Returns a page, and the token of the next one, empty after the last.
    pub(crate) async fn list(
        &self,
        user: String,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Session>, String), Error> {
        valid_user(&user)?;
        let limit = page::size(page_size, PAGE_SIZE, PAGE_SIZE_MAX)?;
        let after = match page_token {
            "" => None,
            text => Some(parse_page(text).ok_or_else(|| {
                Error::invalid(reason::INVALID_PAGE_TOKEN, "page_token", "is not one that ListSessions gave")
            })?),
        };
        let bucket = self.keys.keyring().await?.bucket_of(&user);
        let mut sessions = self.store.list(bucket, user, after, limit + 1).await?;
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let next = match sessions.last() {
            Some(last) if more => {
                write_page(&ListPlace { created_millis: last.created.millis(), id: last.id })
            }
            _ => String::new(),
        };
        Ok((sessions, next))
    }

    pub(crate) async fn revoke_user(&self, user: String, except: &str) -> Result<u64, Error> {
        valid_user(&user)?;
        let except = match except {
            "" => None,
            id => Some(parse_id("except_session_id", id)?),
        };
        let bucket = self.keys.keyring().await?.bucket_of(&user);
        let revoked = self.store.revoke_user(bucket, user, except).await?;
        count_revoked(revoked);
        Ok(revoked)
    }

    /// Watches one user's sessions, or everybody's if `user` is empty.
    pub(crate) async fn watch(&self, user: String, resume: Option<Cursor>) -> Result<Watch<S>, Error> {
        if user.is_empty() {
            return Watch::start(self.store.clone(), None, resume).await;
        }
        valid_user(&user)?;
        let bucket = self.keys.keyring().await?.bucket_of(&user);
        Watch::start(self.store.clone(), Some((bucket, user)), resume).await
    }

    fn ttls(&self, create: &Create) -> Result<(Duration, Duration), Error> {
        let config = &self.config;
        let within = |field, ttl: Duration, max: Duration| {
            let min = config.ttl_min();
            if (min..=max).contains(&ttl) {
                return Ok(ttl);
            }
            Err(Error::invalid(reason::INVALID_TTL, field, format!("must be between {min:?} and {max:?}")))
        };
        let absolute = match create.absolute_ttl {
            None => config.absolute_ttl,
            Some(ttl) => within("absolute_ttl", ttl, config.absolute_ttl_max)?,
        };
        let idle = match create.idle_ttl {
            None => config.idle_ttl.min(absolute),
            Some(ttl) if ttl > absolute => {
                let problem = format!(
                    "must not be more than absolute_ttl, which is {absolute:?}; ask for a longer one too"
                );
                return Err(Error::invalid(reason::INVALID_TTL, "idle_ttl", problem));
            }
            Some(ttl) => within("idle_ttl", ttl, config.idle_ttl_max)?,
        };
        Ok((idle, absolute))
    }

    fn valid_attributes(&self, field: &'static str, attributes: &Attributes) -> Result<(), Error> {
        attributes.keys().try_for_each(|name| valid_name(field, name))?;
        let limits = self.config.policy().attributes;
        limits.check(attributes).map_err(|passed| match passed {
            Passed::Count => Error::TooMuch { field, limit: "attributes_max", max: limits.count_max },
            Passed::Bytes => Error::TooMuch { field, limit: "attributes_bytes_max", max: limits.bytes_max },
        })
    }

    fn valid_metadata(&self, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
        metadata.keys().try_for_each(|name| valid_name("metadata", name))?;
        let bytes = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        at_most("metadata", "metadata_max", metadata.len(), self.config.metadata_max)?;
        at_most("metadata", "metadata_bytes_max", bytes, self.config.metadata_bytes_max)
    }

    fn valid_change(&self, change: &Change) -> Result<(), Error> {
        self.valid_attributes("set", &change.set)?;
        at_most("remove", "remove_max", change.remove.len(), REMOVE_MAX)?;
        change.remove.iter().try_for_each(|name| valid_name("remove", name))
    }
}

/// Returns the secret that is good now, from one that was good before: through its successors, as far as the record knows
/// them.
fn follow(keyring: &Keyring, id: &SessionId, from: Secret, secrets: &Secrets) -> Option<Secret> {
    let mut secret = from;
    for _ in 0..=RETIRED_MAX {
        let (next, hash) = keyring.successors(id, &secret).into_iter().find_map(|next| {
            let hash: Option<Hash> = keyring.hashes(&next).into_iter().find(|hash| secrets.knows(hash));
            Some((next, hash?))
        })?;
        if hash == secrets.current || secrets.next == Some(hash) {
            return Some(next);
        }
        secret = next;
    }
    None
}

fn issue(keyring: &Keyring, id: SessionId, secret: Secret, session: Session) -> Issued {
    Issued { token: Token { id, secret }.issue(keyring), session }
}

/// Returns the first element: a keyring has at least one key of each kind.
fn first<T>(list: Vec<T>) -> Result<T, Error> {
    list.into_iter().next().ok_or_else(|| Error::Internal("the keyring is empty".to_owned()))
}

/// Parses a token. Text that this mesh did not issue is refused without asking the store.
fn parse(text: &str, keyring: &Keyring) -> Result<Token, Error> {
    if text.is_empty() {
        return Err(Error::invalid(reason::MISSING_TOKEN, "token", "is required"));
    }
    Token::parse(text, keyring).ok_or(Error::NotFound)
}

fn parse_id(field: &'static str, text: &str) -> Result<SessionId, Error> {
    text.parse().map_err(|()| {
        Error::invalid(
            reason::INVALID_SESSION_ID,
            field,
            "must be a session's id: 34 lower-case hexadecimal digits",
        )
    })
}

fn valid_user(user: &str) -> Result<(), Error> {
    if user.is_empty() {
        return Err(Error::invalid(reason::MISSING_USER_ID, "user_id", "is required"));
    }
    at_most("user_id", "user_id_bytes", user.len(), USER_BYTES_MAX)
}

fn valid_name(field: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid(reason::EMPTY_NAME, field, "names must not be empty"));
    }
    at_most(field, "name_bytes", name.len(), NAME_BYTES_MAX)
}

fn at_most(field: &'static str, limit: &'static str, value: usize, max: usize) -> Result<(), Error> {
    if value > max { Err(Error::TooMuch { field, limit, max }) } else { Ok(()) }
}

fn count_revoked(sessions: u64) {
    metrics::counter!("shoal_session_revoked_total").increment(sessions);
}

/// Hashes the name of the call (user and `request_id`) and its fields, with the length of each part between the parts.
fn request_key(create: &Create, idle_ttl: Duration, absolute_ttl: Duration) -> Option<RequestKey> {
    if create.request_id.is_empty() {
        return None;
    }
    let key = Digest16::of([create.user.as_bytes(), create.request_id.as_bytes()]);
    let mut said = Digest16::new();
    said.part(&idle_ttl.as_nanos().to_be_bytes());
    said.part(&absolute_ttl.as_nanos().to_be_bytes());
    said.part(&create.attributes.len().to_be_bytes());
    for (name, value) in &create.attributes {
        said.part(name.as_bytes());
        said.part(&value.encode());
    }
    for (name, value) in &create.metadata {
        said.part(name.as_bytes());
        said.part(value.as_bytes());
    }
    Some(RequestKey { key, fingerprint: said.finish() })
}

struct Digest16(Sha256);

impl Digest16 {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
        let mut digest = Self::new();
        parts.into_iter().for_each(|part| digest.part(part));
        digest.finish()
    }

    fn part(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0.finalize()[..16]);
        half
    }
}

fn write_page(place: &ListPlace) -> String {
    let mut bytes = place.created_millis.to_be_bytes().to_vec();
    bytes.extend(place.id.to_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parse_page(text: &str) -> Option<ListPlace> {
    let mut bytes = [0; 8 + 17];
    if URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(bytes.len()) {
        return None;
    }
    let (created, id) = bytes.split_at(8);
    Some(ListPlace {
        created_millis: i64::from_be_bytes(created.try_into().ok()?),
        id: SessionId::from_bytes(id)?,
    })
}
