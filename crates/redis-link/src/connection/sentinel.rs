//! Asks Redis Sentinels where the primary is. Sentinels stand in for a resolver of names: a link to `redis+sentinel://` follows
//! the primary as a link to a name does. A Sentinel's answer is believed only if the server there tells that it is a primary.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{SentinelConfig, Settings};
use crate::endpoint::Endpoint;

/// The time for the answer of one Sentinel; a silent one must leave time for the next.
const ANSWER_DEADLINE: Duration = Duration::from_millis(80);

/// Asks the Sentinels of one link, beginning with the one that was of use last.
#[derive(Debug)]
pub(crate) struct Sentinels {
    config: SentinelConfig,
    /// User and password of Redis, for Sentinels that require a login.
    login: RedisConnectionInfo,
    turn: AtomicUsize,
}

impl Sentinels {
    /// Makes the Sentinels of a link; `None` if its URL names none.
    pub(crate) fn of(settings: &Settings) -> Option<Sentinels> {
        let config = settings.sentinel.clone()?;
        let login = settings.login.clone().set_db(0);
        Some(Sentinels { config, login, turn: AtomicUsize::new(0) })
    }

    /// Asks one Sentinel after the other until one knows the primary.
    pub(crate) async fn primary(&self) -> io::Result<(String, u16)> {
        let sentinels = &self.config.sentinels;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "no sentinel is named");
        for at in 0..sentinels.len() {
            let turn = self.turn.load(Ordering::Relaxed);
            let sentinel = &sentinels[turn % sentinels.len()];
            let answer = timeout(ANSWER_DEADLINE, self.ask(sentinel)).await;
            failed = match answer {
                Ok(Ok(Some(primary))) => return Ok(primary),
                Ok(Ok(None)) => {
                    let text = format!("the sentinel {sentinel} knows no primary {:?}", self.config.primary);
                    io::Error::new(io::ErrorKind::NotFound, text)
                }
                Ok(Err(error)) => io::Error::other(format!("the sentinel {sentinel}: {error}")),
                Err(_) => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the sentinel {sentinel} does not answer within {ANSWER_DEADLINE:?}"),
                ),
            };
            tracing::debug!(%failed, at, "asking a redis sentinel");
            // Another call may have turned already.
            let _ =
                self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
        Err(failed)
    }

    /// Asks another Sentinel next time: what the last one named is no primary.
    pub(crate) fn turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    async fn ask(&self, sentinel: &Endpoint) -> Result<Option<(String, u16)>, RedisError> {
        let open = RedisConnectionInfo::default().set_skip_set_lib_name();
        match self.ask_as(sentinel, open).await {
            Err(error) if error.code() == Some("NOAUTH") => self.ask_as(sentinel, self.login.clone()).await,
            answer => answer,
        }
    }

    async fn ask_as(
        &self,
        sentinel: &Endpoint,
        login: RedisConnectionInfo,
    ) -> Result<Option<(String, u16)>, RedisError> {
        let stream = TcpStream::connect((sentinel.host.as_str(), sentinel.port)).await?;
        stream.set_nodelay(true)?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (mut requests, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.config.primary);
        ask.query_async(&mut requests).await
    }
}
