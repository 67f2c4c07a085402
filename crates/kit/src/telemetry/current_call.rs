//! The call that the current task works on, so that what is logged meanwhile can name it.

use std::sync::Arc;

use crate::telemetry::metrics::Method;

tokio::task_local! {
    static CALL: Arc<Method>;
}

/// Runs a future as part of a call.
pub(crate) fn within<F: Future>(
    method: Arc<Method>,
    future: F,
) -> tokio::task::futures::TaskLocalFuture<Arc<Method>, F> {
    CALL.scope(method, future)
}

/// Runs a function as part of a call.
pub(crate) fn within_sync<T>(method: Arc<Method>, function: impl FnOnce() -> T) -> T {
    CALL.sync_scope(method, function)
}

/// Hands the method of the current call to `show`, if there is one.
pub(crate) fn show(show: impl FnOnce(&Method)) {
    // Fails outside of calls.
    let _ = CALL.try_with(|method| show(method));
}
