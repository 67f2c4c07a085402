//! Opens a connection to a Redis: sets the socket's options, shakes hands, and tells when the connection ends.

pub(crate) mod dial;
pub(crate) mod hello;
pub(crate) mod process;
mod progress;
mod sentinel;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ProtocolVersion, Value};
use shoal_coalesce::Coalesce;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Settings;
use crate::connection::dial::Dialer;
use crate::connection::hello::Hello;
use crate::connection::process::Met;
use crate::connection::progress::{Progress, Watched};
use crate::error::{self, LinkError};
use crate::health::eviction::MemoryPolicy;
use crate::script::Script;

/// The number of requests that may wait to be written; further callers wait for room, within their deadline. The driver's default
/// of 50 is less than a busy clone has in flight.
const PIPELINE_BUFFER: usize = 1024;

/// The number of bytes gathered before a write, which saves system calls under load.
const WRITE_BUFFER: usize = 64 * 1024;

/// Tests whether Redis takes writes. The script has no keys and writes nothing, but Redis refuses it like one that writes,
/// because its flags do not say `no-writes` (Redis 7, "Script flags").
pub(crate) static PROBE: LazyLock<Script> = LazyLock::new(|| Script::new("probe", "#!lua\nreturn 0"));

/// The time after which the kernel gives up on unacknowledged data. The watchdog is faster; this bound is for the connections
/// that it does not watch.
const USER_TIMEOUT: Duration = Duration::from_secs(2);

/// The keepalive probes that find an idle peer lost within 5 s + 3 × 1 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(5))
    .with_interval(Duration::from_secs(1))
    .with_retries(3);

/// An open connection. Dropping it closes the socket and fails the calls in flight.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) requests: MultiplexedConnection,
    /// Cancelled when the connection ends, whichever side ended it.
    pub(crate) closed: CancellationToken,
    /// Set when the connection ends. Calls read this flag, because asking the token takes a lock.
    ended: Arc<AtomicBool>,
    /// Set once the node no longer uses the connection; calls in flight may still be answered.
    pub(crate) retired: AtomicBool,
    /// Calls that wait for a reply.
    pub(crate) in_flight: Arc<AtomicUsize>,
    pub(crate) progress: Progress,
    /// The eviction policy of Redis. Only connections for requests ask for it, and Redis may not tell.
    pub(crate) memory_policy: Option<MemoryPolicy>,
    /// The server's greeting. Only connections for requests ask for it, and a server may give none.
    pub(crate) hello: Option<Hello>,
    /// The process behind the connection. Only connections for requests ask for it, and Redis may not tell.
    pub(crate) process: Option<Met>,
    /// The address at the other end.
    pub(crate) peer: SocketAddr,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Connects for requests: names the connection, loads `scripts`, and waits for the answer to a PING.
    pub(crate) async fn open(
        dialer: &Dialer,
        settings: &Settings,
        scripts: &[Script],
    ) -> Result<Connection, LinkError> {
        within(dialer, settings, async {
            let mut connection = Connection::establish(dialer, settings, None).await?;
            let mut setup = redis::pipe();
            setup.cmd("CLIENT").arg("SETNAME").arg(format!("shoal-{}", settings.role)).cmd("PING");
            for script in scripts {
                setup.add_command(script.load());
            }
            // These may fail: an older Redis compiles no such script, and not every user may ask.
            setup.add_command(PROBE.load()).add_command(MemoryPolicy::ask());
            setup.add_command(Hello::ask());
            setup.cmd("INFO").arg("server").cmd("TIME");
            let count = setup.len();
            let mut replies = connection.requests.send_packed_commands(&setup, 0, count).await?;
            let (time, info) = (replies.pop(), replies.pop());
            connection.process = info.zip(time).and_then(|(info, time)| Met::of_replies(info, time));
            connection.hello = replies.pop().and_then(Hello::of_reply);
            connection.memory_policy = replies.pop().and_then(MemoryPolicy::of_reply);
            replies.pop();
            for reply in replies {
                match reply {
                    // A Redis that cannot save answers so even to PING, and reads go on.
                    Value::ServerError(error) if error.code() == "MISCONF" => {}
                    reply => drop(reply.extract_error()?),
                }
            }
            Ok(connection)
        })
        .await
    }

    /// Connects for push messages (RESP3); they go to `pushes`.
    pub(crate) async fn open_for_pushes(
        dialer: &Dialer,
        settings: &Settings,
        pushes: impl AsyncPushSender,
    ) -> Result<Connection, LinkError> {
        let config = AsyncConnectionConfig::new().set_push_sender(pushes);
        within(dialer, settings, Connection::establish(dialer, settings, Some(config))).await
    }

    /// Sends one command and waits for its reply; without a deadline.
    pub(crate) async fn command(&self, command: &redis::Cmd) -> Result<Value, redis::RedisError> {
        // A clone shares the connection.
        self.requests.clone().send_packed_command(command).await?.extract_error()
    }

    async fn establish(
        dialer: &Dialer,
        settings: &Settings,
        push: Option<AsyncConnectionConfig>,
    ) -> Result<Connection, redis::RedisError> {
        let (stream, peer) = dialer.connect(settings.connect_deadline).await?;
        set_options(&stream)?;
        let progress = Progress::new();
        let stream = Watched::new(stream, progress.clone());
        let protocol = if push.is_some() { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
        let login = settings.login.clone().set_protocol(protocol);
        // Deadlines are kept around each call: the driver's own time-out leaves the connection as it is.
        let config = push
            .unwrap_or_default()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_BUFFER)
            .set_write_backpressure_boundary(WRITE_BUFFER);
        let (requests, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        let closed = CancellationToken::new();
        let ended = Arc::new(AtomicBool::new(false));
        // Dropped with the task, so it also tells of an abort.
        let end = End { ended: Arc::clone(&ended), closed: closed.clone() };
        let in_flight = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&in_flight);
        let busy = move || calls.load(Ordering::Relaxed) > 1;
        let driver = tokio::spawn(async move {
            let _end = end;
            // Calls that are made at once are sent at once.
            Coalesce::new(driver, busy).await;
        });
        let driver = AbortOnDropHandle::new(driver);
        Ok(Connection {
            requests,
            closed,
            ended,
            retired: AtomicBool::new(false),
            in_flight,
            progress,
            memory_policy: None,
            hello: None,
            process: None,
            peer,
            _driver: driver,
        })
    }

    /// Returns whether the server says that it follows another one.
    pub(crate) fn is_replica(&self) -> bool {
        self.hello.is_some_and(|hello| hello.replica)
    }

    /// Returns whether the connection may still carry calls.
    pub(crate) fn is_live(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && !self.retired.load(Ordering::Acquire)
    }
}

/// Tells of a connection's end when it is dropped.
struct End {
    ended: Arc<AtomicBool>,
    closed: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.closed.cancel();
    }
}

/// Sets TCP_NODELAY, so that no small request waits for the acknowledgement of the one before it, and the time-outs that detect
/// a lost peer.
fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

async fn within(
    dialer: &Dialer,
    settings: &Settings,
    attempt: impl Future<Output = Result<Connection, redis::RedisError>>,
) -> Result<Connection, LinkError> {
    match tokio::time::timeout(settings.connect_deadline, attempt).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error::of_connecting(&error, &settings.place(dialer.endpoint()))),
        Err(_) => Err(LinkError::Unavailable(format!(
            "{} did not answer a new connection within {:?}",
            settings.place(dialer.endpoint()),
            settings.connect_deadline
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_send_immediately_and_detect_loss() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_options(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}
