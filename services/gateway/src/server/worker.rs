//! The worker of one core: a thread with a runtime of its own, a listener of its own and connections of its own. Cores share the
//! route table and nothing else on the way of a call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_kit::Seldom;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::forwarding::context::CallContext;
use crate::server::connection::{self, END_NOTICE};

/// After accepting failed: out of file descriptors, or the peer is gone already. Both pass.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A core's thread.
pub(crate) struct Thread {
    /// Its runtime.
    pub(crate) handle: Handle,
    start: oneshot::Sender<CallContext>,
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

/// A thread that serves.
pub(crate) struct Running {
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Thread {
    /// Starts a thread with a runtime that waits for its [`CallContext`].
    ///
    /// # Errors
    /// When there is no thread or no runtime to be had.
    pub(crate) async fn spawn(index: usize, listener: std::net::TcpListener) -> anyhow::Result<Thread> {
        let (tell, told) = oneshot::channel();
        let (start, started) = oneshot::channel::<CallContext>();
        let (end, ended) = oneshot::channel();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            // Fails when the gateway gave up meanwhile; then there is no context to come either.
            let _ = tell.send(Ok(runtime.handle().clone()));
            let served = runtime.block_on(async move {
                let Ok(context) = started.await else { return Ok(()) };
                serve(Arc::new(context), TcpListener::from_std(listener)?).await;
                std::io::Result::Ok(())
            });
            match served {
                Ok(()) => drop(end.send(())),
                Err(error) => tracing::error!(%error, core = index, "cannot serve"),
            }
        };
        let thread = std::thread::Builder::new().name(format!("gateway-{index}")).spawn(body)?;
        let handle = told.await??;
        Ok(Thread { handle, start, ended, thread })
    }

    /// Lets it serve.
    pub(crate) fn start(self, context: CallContext) -> Running {
        // Fails only if the thread died; then `ended` says so.
        let _ = self.start.send(context);
        Running { ended: self.ended, thread: self.thread }
    }
}

impl Running {
    /// Resolves when it has drained.
    ///
    /// # Errors
    /// When the thread died instead.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.ended).await.map_err(|_| anyhow::anyhow!("a thread of the gateway died"))
    }

    /// Waits for the thread itself, which has nothing left to do but to close its sockets.
    pub(crate) async fn join(self) {
        // What it died of was said by `ended`.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Accepts until told to stop, then lets the connections finish, bounded by the grace.
async fn serve(context: Arc<CallContext>, listener: TcpListener) {
    let connections = TaskTracker::new();
    tokio::select! {
        () = context.stop.cancelled() => {}
        () = accept(&context, &listener, &connections) => {}
    }
    context.stopping.store(true, Ordering::Relaxed);
    drop(listener);
    connections.close();
    if timeout(context.drain.grace, connections.wait()).await.is_err() {
        let left = connections.len();
        tracing::warn!(core = context.index, left, grace = ?context.drain.grace, "calls of connections were ended after the drain");
        context.cut.cancel();
        // Who does not read in this time is cut.
        let _ = timeout(END_NOTICE, connections.wait()).await;
    }
}

async fn accept(context: &Arc<CallContext>, listener: &TcpListener, connections: &TaskTracker) {
    let (mut failed, mut refused) = (Seldom::default(), Seldom::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                metrics::counter!("shoal_gateway_accept_errors_total").increment(1);
                if let Some(times) = failed.happened() {
                    tracing::warn!(%error, times, "accept failed");
                }
                if is_out_of_files(&error) {
                    context.slots.make_room();
                }
                sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let Ok(occupied) = context.slots.take(peer.ip()).await else {
            metrics::counter!("shoal_gateway_refused_total", "limit" => "connections_per_address")
                .increment(1);
            if let Some(times) = refused.happened() {
                let most = context.config.limits.connections_per_address;
                let address = peer.ip();
                tracing::warn!(%address, most, times, "gateway.limits.connections_per_address: closed a connection");
            }
            continue;
        };
        let context = context.clone();
        connections.spawn(async move {
            let open = Open::new();
            connection::serve(context, stream, peer, &occupied.slot).await;
            drop(open);
            drop(occupied);
        });
    }
}

/// Returns whether the process, or the machine, has no open file left.
fn is_out_of_files(error: &std::io::Error) -> bool {
    /// EMFILE and ENFILE, everywhere.
    const NUMBERS: [i32; 2] = [24, 23];
    error.raw_os_error().is_some_and(|number| NUMBERS.contains(&number))
}

/// A client connection that is open, for Prometheus.
struct Open(metrics::Gauge);

impl Open {
    fn new() -> Open {
        let gauge = metrics::gauge!("shoal_gateway_connections");
        gauge.increment(1.0);
        Open(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
