//! The error of a pick that failed: names the upstream and what each of its endpoints is waiting for.

use std::fmt::{self, Write};

use crate::snapshot::{EndpointSnapshot, EndpointState};

/// The number of endpoints a message names before it only counts.
const NAMED_MAX: usize = 3;

/// The error of a pick without a usable endpoint. The message says why and fits a gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint of `{upstream}` can take a call: {reason}")]
pub struct Unavailable {
    /// The upstream's name.
    pub upstream: String,
    /// The reason: the state of its endpoints.
    pub reason: String,
    /// Set when endpoints are ready, but streams are missing.
    pub crowded: Option<Crowded>,
}

/// The reason why a call has no stream although endpoints are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// The calls that the servers allow at once (SETTINGS_MAX_CONCURRENT_STREAMS), on all the connections that may be made.
    pub allowed: u64,
    /// The running calls of this [`Share`](crate::Share).
    pub held: u32,
    /// Set if the call did not wait because too many calls do.
    pub too_many_wait: bool,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crowded { allowed, held, too_many_wait } = self;
        write!(f, "its servers allow {allowed} calls at once over all connections")?;
        match held {
            0 => f.write_str(", all in use")?,
            held => write!(
                f,
                "; {held} of those in use are this client's, and the rest is reserved for other clients"
            )?,
        }
        f.write_str(if *too_many_wait { ", and too many calls wait already" } else { "" })
    }
}

impl Unavailable {
    pub(crate) fn stopped(upstream: &str) -> Unavailable {
        Unavailable {
            upstream: upstream.into(),
            reason: "this process is shutting down".into(),
            crowded: None,
        }
    }

    pub(crate) fn of(
        upstream: &str,
        endpoints: &[EndpointSnapshot],
        excluded: usize,
        crowded: Option<Crowded>,
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
            reason.push_str("discovery has found no endpoint");
        }
        if endpoints.len() > unready {
            let separator = if reason.is_empty() { "" } else { "; " };
            let ready = endpoints.len() - unready;
            let _ = write!(reason, "{separator}{ready} ready, {excluded} tried already");
        }
        if let Some(crowded) = &crowded {
            let _ = write!(reason, "; {crowded}");
        }
        Unavailable { upstream: upstream.into(), reason, crowded }
    }
}
