//! One connection of an endpoint from its first ping to its end: proves that somebody is there, and goes on proving it.

use std::sync::Arc;

use shoal_http2::Pings;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::endpoint::Endpoint;
use crate::endpoint::connection::{CLOSED, Connected, Connection, Driver, connect};
use crate::endpoint::feedback::Feedback;
use crate::endpoint::keepalive::Keepalive;
use crate::fairness::fair_queue::FairQueue;
use crate::options::Options;

/// Makes connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) options: Arc<Options>,
    /// The streams of the upstream, which its connections share.
    pub(crate) fair_queue: Arc<FairQueue>,
    /// Where the connections report what concerns other endpoints.
    pub(crate) feedback: Arc<dyn Feedback>,
}

/// A connection whose first ping was answered, not yet in use.
pub(crate) struct Fresh {
    dialer: Dialer,
    pub(crate) connection: Arc<Connection>,
    /// Dropped, the connection is cut.
    pub(crate) driver: AbortOnDropHandle<()>,
    pings: Pings,
    retire: oneshot::Sender<()>,
}

/// A connection in use. Dropped, it takes no more calls and ends with its last one.
pub(crate) struct ActiveConnection {
    dialer: Dialer,
    connection: Arc<Connection>,
    pings: Pings,
    keepalive: Keepalive,
    _retire: oneshot::Sender<()>,
}

/// Why a connection is no longer in use.
pub(crate) enum End {
    /// Its driver said so: the peer left, or the network did.
    Gone,
    /// A ping was not answered: this is the reason to cut it.
    Silent(String),
    /// It was one of several and had no calls for a while.
    Idle,
}

/// A connection that is no longer in use.
pub(crate) struct Ended {
    pub(crate) connection: Arc<Connection>,
    pub(crate) end: End,
    /// What it has learnt of the peer's patience.
    pub(crate) keepalive: Keepalive,
}

impl Dialer {
    /// Connects, and waits for the answer to a first ping: a kernel accepts for a process that is stuck. The answer also follows
    /// the peer's SETTINGS, so that its stream limit is known before the first call.
    ///
    /// # Errors
    /// With the reason. Nothing is left behind.
    pub(crate) async fn dial(self) -> Result<Fresh, String> {
        let Dialer { endpoint, options, fair_queue, feedback } = &self;
        let connected = connect(endpoint.address, options).await.map_err(|error| error.to_string())?;
        let Connected { http2, sender, mut pings } = connected;
        let connection = Arc::new(Connection::new(
            endpoint.address,
            sender,
            endpoint.load.clone(),
            options.clone(),
            fair_queue.clone(),
            feedback,
        ));
        let (retire, retired) = oneshot::channel();
        let down = {
            let (endpoint, feedback, connection) = (endpoint.clone(), feedback.clone(), connection.clone());
            move |reason: String| {
                if endpoint.detach(&connection, reason) {
                    feedback.changed();
                }
            }
        };
        let driver = Driver::new(http2, connection.clone(), retired, options.drain, down);
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        match timeout(options.connect_timeout, pings.ping()).await {
            Ok(Ok(())) => {
                connection.look_at_limit();
                Ok(Fresh { dialer: self, connection, driver, pings, retire })
            }
            // Its driver knows more than the ping.
            Ok(Err(_)) if connection.is_down() => Err(match connection.down_reason() {
                reason if reason == CLOSED => {
                    format!("{CLOSED} before it had said a word: does this port want TLS?")
                }
                reason => reason,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer to a ping within {:?} of connecting", options.connect_timeout)),
        }
    }
}

impl Fresh {
    /// Puts it to use: from here on it is picked, once the endpoint serves. `keepalive` is what earlier connections have
    /// learnt.
    pub(crate) fn enlist(self, mut keepalive: Keepalive) -> (ActiveConnection, AbortOnDropHandle<()>) {
        let Fresh { dialer, connection, driver, pings, retire } = self;
        let endpoint = &dialer.endpoint;
        endpoint.attach(connection.clone());
        if connection.is_down() {
            // Since its first ping, when its driver found nothing to take out.
            endpoint.detach(&connection, connection.down_reason());
        }
        keepalive.connected();
        (ActiveConnection { dialer, connection, pings, keepalive, _retire: retire }, driver)
    }
}

impl ActiveConnection {
    /// Resolves when it is no longer in use.
    pub(crate) async fn run(mut self) -> Ended {
        let end = tokio::select! {
            () = self.connection.gone() => End::Gone,
            reason = keep_alive(&mut self.keepalive, &mut self.pings, &self.connection, &self.dialer.options) => End::Silent(reason),
            () = idle(&self.dialer, &self.connection) => End::Idle,
        };
        Ended { connection: self.connection, end, keepalive: self.keepalive }
    }
}

/// Pings when the connection is quiet. Returns when a ping was not answered, with the reason.
async fn keep_alive(
    keepalive: &mut Keepalive,
    pings: &mut Pings,
    connection: &Connection,
    options: &Options,
) -> String {
    let (mut answers, mut quiet) = (connection.answers(), 0);
    loop {
        sleep(options.keepalive_interval).await;
        let answers_now = connection.answers();
        if answers_now != answers {
            (answers, quiet) = (answers_now, 0);
            keepalive.answered();
            continue;
        }
        quiet += 1;
        let busy = connection.streams.calls() > 0;
        if !is_turn(quiet, busy) || !keepalive.due(busy) {
            continue;
        }
        match timeout(options.keepalive_timeout, pings.ping()).await {
            Ok(Ok(())) => {}
            // The connection is over; its driver knows why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return format!("no answer to a ping within {:?}", options.keepalive_timeout),
        }
    }
}

/// Whether a connection is looked after that has been without an answer for so many intervals. Early when somebody waits;
/// then later, since what a strict server allows until its next answer is soon used up.
fn is_turn(quiet: u32, busy: bool) -> bool {
    match quiet {
        1 => busy,
        2 => !busy,
        3 => false,
        _ => quiet.is_multiple_of(2),
    }
}

/// Returns when a connection beside the first one was without calls for a while.
async fn idle(dialer: &Dialer, connection: &Arc<Connection>) {
    loop {
        sleep(dialer.options.connection_idle).await;
        let is_first = dialer.endpoint.first_connection().is_none_or(|first| Arc::ptr_eq(&first, connection));
        if !connection.streams.was_used() && !is_first {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_connection_is_looked_after_sooner_when_somebody_waits() {
        let turns = |busy| (1..=10).filter(|quiet| is_turn(*quiet, busy)).collect::<Vec<u32>>();
        assert_eq!(turns(true), [1, 4, 6, 8, 10]);
        assert_eq!(turns(false), [2, 4, 6, 8, 10]);
    }
}
