//! Turns a source into a list of targets that is kept current by one task. Never empties a list because of a failure.

mod dns;
mod file;
mod resolver;
pub(crate) mod source;
mod srv;
pub(crate) mod subset;
pub(crate) mod target;

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::discovery::source::Source;
use crate::discovery::target::Target;

/// Requests that discovery looks again now, ahead of its clock. The balancer does so when a connection fails.
///
/// Cheap to call at any rate: discovery bounds how often it really looks.
#[derive(Clone, Debug, Default)]
pub struct ReResolution(Arc<Notify>);

impl ReResolution {
    /// Requests one look. Several requests before the next look count as one.
    pub fn request(&self) {
        self.0.notify_one();
    }

    async fn requested(&self) {
        self.0.notified().await;
    }
}

/// Starts a task on the current runtime that keeps the targets of `source` current until `cancel`.
///
/// The first value of the receiver already has a static list. A file or a name is read a moment later; until then the list is
/// empty. A failure keeps the last good list and is logged. The receiver may be cloned into other runtimes.
pub fn discover(source: Source, cancel: CancellationToken) -> watch::Receiver<Arc<[Target]>> {
    discover_with_re_resolution(source, ReResolution::default(), cancel)
}

/// Does what [`discover`] does, and also looks whenever `re_resolution` is requested.
pub fn discover_with_re_resolution(
    source: Source,
    re_resolution: ReResolution,
    cancel: CancellationToken,
) -> watch::Receiver<Arc<[Target]>> {
    let first: Arc<[Target]> = match &source {
        Source::Static(targets) => targets.as_slice().into(),
        Source::File(_) | Source::Dns { .. } | Source::Srv(_) => Arc::from([]),
    };
    let (sender, receiver) = watch::channel(first);
    // Each task ends when `cancel` does or when the last receiver is gone, so nobody has to join it.
    match source {
        Source::Static(_) => {
            // The sender is kept, so that a receiver's `changed` waits instead of failing.
            tokio::spawn(async move {
                tokio::select! { () = cancel.cancelled() => {}, () = sender.closed() => {} }
            });
        }
        Source::File(path) => {
            tokio::spawn(async move {
                tokio::select! { () = cancel.cancelled() => {}, () = file::follow(path, re_resolution, &sender) => {} }
            });
        }
        Source::Dns { host, port } => ask(dns::Question::Host { host, port }, sender, re_resolution, cancel),
        Source::Srv(name) => ask(dns::Question::services(name), sender, re_resolution, cancel),
    }
    receiver
}

fn ask(
    question: dns::Question,
    sender: watch::Sender<Arc<[Target]>>,
    re_resolution: ReResolution,
    cancel: CancellationToken,
) {
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {},
            () = dns::follow(question, dns::PACE, resolver::System, re_resolution, &sender) => {}
        }
    });
}

/// Publishes `targets` if they differ from the last list. Returns whether they do.
fn publish(sender: &watch::Sender<Arc<[Target]>>, targets: Vec<Target>) -> bool {
    sender.send_if_modified(|current| {
        let differs = current.as_ref() != targets.as_slice();
        if differs {
            *current = targets.into();
        }
        differs
    })
}
