//! Why nothing could be picked: names the upstream and what each of its endpoints is waiting for.

use std::fmt::Write;

use crate::endpoint::{EndpointSnapshot, EndpointState};

/// How many endpoints a message names before it only counts.
const NAMED_MAX: usize = 3;

/// No endpoint can be picked. The message says why and fits a gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint of `{upstream}` can take a call: {reason}")]
pub struct Unavailable {
    /// The upstream's name.
    pub upstream: String,
    /// What is known of its endpoints.
    pub reason: String,
}

impl Unavailable {
    pub(crate) fn stopped(upstream: &str) -> Unavailable {
        Unavailable { upstream: upstream.into(), reason: "this process is shutting down".into() }
    }

    /// `full`: there are some, and all the streams that their peers allow are in use.
    pub(crate) fn of(
        upstream: &str,
        endpoints: &[EndpointSnapshot],
        excluded: usize,
        full: bool,
    ) -> Unavailable {
        let mut reason = String::new();
        for endpoint in endpoints.iter().filter(|e| e.state != EndpointState::Ready).take(NAMED_MAX) {
            if !reason.is_empty() {
                reason.push_str("; ");
            }
            let _ = write!(reason, "{} {}", endpoint.address, endpoint.state);
            if !endpoint.reason.is_empty() {
                let _ = write!(reason, " ({})", endpoint.reason);
            }
        }
        let unready = endpoints.iter().filter(|e| e.state != EndpointState::Ready).count();
        if unready > NAMED_MAX {
            let _ = write!(reason, "; and {} more", unready - NAMED_MAX);
        }
        if endpoints.is_empty() {
            reason.push_str("discovery has found none");
        }
        if endpoints.len() > unready {
            let separator = if reason.is_empty() { "" } else { "; " };
            let ready = endpoints.len() - unready;
            let _ = write!(reason, "{separator}{ready} ready, {excluded} tried already");
        }
        if full {
            reason.push_str("; every stream is in use, and a further connection is being made");
        }
        Unavailable { upstream: upstream.into(), reason }
    }
}
