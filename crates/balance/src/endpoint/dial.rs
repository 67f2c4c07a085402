//! A connection of an endpoint from its first ping to its end: the pings prove that a live process answers.

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
    /// The queue for the streams of the upstream, which all its connections share.
    pub(crate) fair_queue: Arc<FairQueue>,
    /// The receiver of events that concern other endpoints.
    pub(crate) feedback: Arc<dyn Feedback>,
}

/// A connection whose first ping was answered. It is not in use yet.
pub(crate) struct Fresh {
    dialer: Dialer,
    pub(crate) connection: Arc<Connection>,
    /// The task of the connection; on drop, the connection is cut.
    pub(crate) driver: AbortOnDropHandle<()>,
    pings: Pings,
    retire: oneshot::Sender<()>,
}

/// A connection in use. On drop, it takes no more calls and ends with its last one.
pub(crate) struct ActiveConnection {
    dialer: Dialer,
    connection: Arc<Connection>,
    pings: Pings,
    keepalive: Keepalive,
    _retire: oneshot::Sender<()>,
}

/// The reason why a connection is no longer in use.
pub(crate) enum End {
    /// The driver reported its end: the peer closed it, or the network failed.
    Gone,
    /// A ping was not answered. Holds the message.
    Silent(String),
    /// The connection was one of several and had no calls for a while.
    Idle,
}

/// A connection that is no longer in use.
pub(crate) struct Ended {
    pub(crate) connection: Arc<Connection>,
    pub(crate) end: End,
    /// The knowledge it gained of the peer's tolerance for pings.
    pub(crate) keepalive: Keepalive,
}

impl Dialer {
    /// Connects, and waits for the answer to a first ping: a kernel accepts connections for a process that is stuck. The answer
    /// also follows the peer's SETTINGS, so that the stream limit is known before the first call.
    ///
    /// # Errors
    /// Returns the reason. No connection is left behind.
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
            // The driver knows more than the ping.
            Ok(Err(_)) if connection.is_down() => Err(match connection.down_reason() {
                reason if reason == CLOSED => {
                    format!("{CLOSED} before it sent a byte: does this port expect TLS?")
                }
                reason => reason,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer to a ping within {:?} of connecting", options.connect_timeout)),
        }
    }
}

impl Fresh {
    /// Puts the connection to use: it is picked as soon as the endpoint serves. `keepalive` is the knowledge gained by earlier
    /// connections.
    pub(crate) fn enlist(self, mut keepalive: Keepalive) -> (ActiveConnection, AbortOnDropHandle<()>) {
        let Fresh { dialer, connection, driver, pings, retire } = self;
        let endpoint = &dialer.endpoint;
        endpoint.attach(connection.clone());
        if connection.is_down() {
            // It went down after its first ping, when its driver found nothing to remove.
            endpoint.detach(&connection, connection.down_reason());
        }
        keepalive.connected();
        (ActiveConnection { dialer, connection, pings, keepalive, _retire: retire }, driver)
    }
}

impl ActiveConnection {
    /// Resolves when the connection is no longer in use.
    pub(crate) async fn run(mut self) -> Ended {
        let end = tokio::select! {
            () = self.connection.gone() => End::Gone,
            reason = keep_alive(&mut self.keepalive, &mut self.pings, &self.connection, &self.dialer.options) => End::Silent(reason),
            () = idle(&self.dialer, &self.connection) => End::Idle,
        };
        Ended { connection: self.connection, end, keepalive: self.keepalive }
    }
}

/// Pings while the connection is quiet. Returns the reason once a ping is not answered.
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
            // The connection has ended; its driver knows why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return format!("no answer to a ping within {:?}", options.keepalive_timeout),
        }
    }
}

/// Returns whether to ping a connection that has been without an answer for `quiet` intervals: early when calls wait; then less
/// often, since the pings that a strict server allows before its next answer are soon used up.
fn is_turn(quiet: u32, busy: bool) -> bool {
    match quiet {
        1 => busy,
        2 => !busy,
        3 => false,
        _ => quiet.is_multiple_of(2),
    }
}

/// Returns when a connection that is not the first one had no calls for a while.
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
    fn busy_quiet_connection_is_pinged_sooner() {
        let turns = |busy| (1..=10).filter(|quiet| is_turn(*quiet, busy)).collect::<Vec<u32>>();
        assert_eq!(turns(true), [1, 4, 6, 8, 10]);
        assert_eq!(turns(false), [2, 4, 6, 8, 10]);
    }
}
