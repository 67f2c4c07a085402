//! Header lists that are too long: whose they are, which limit they are above, and how often that happens.

use std::fmt;
use std::net::SocketAddr;

use shoal_http2::{ListLimit, ListTooLong};
use shoal_kit::ApiError;
use shoal_kit::reason;
use tonic::Code;

/// A header list that is above a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TooLong {
    whose: Whose,
    list: ListTooLong,
}

/// Whose header list it is, and so whose limit it is above.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// A caller's; the gateway's limit.
    Call,
    /// A caller's; the limit that an endpoint has announced.
    CallTo { upstream: String, address: SocketAddr },
    /// An endpoint's; the gateway's limit.
    Answer { upstream: String, address: SocketAddr },
}

impl TooLong {
    fn refused(whose: Whose, list: ListTooLong) -> TooLong {
        let too_long = TooLong { whose, list };
        metrics::counter!("shoal_gateway_headers_refused_total", "limit" => too_long.limit()).increment(1);
        too_long
    }

    /// A call whose header list is above ours.
    pub(crate) fn call(list: ListTooLong) -> TooLong {
        TooLong::refused(Whose::Call, list)
    }

    /// A call whose header list is above its endpoint's.
    pub(crate) fn call_to(upstream: &str, address: SocketAddr, list: ListTooLong) -> TooLong {
        TooLong::refused(Whose::CallTo { upstream: upstream.to_owned(), address }, list)
    }

    /// An answer whose headers or trailers are above ours.
    pub(crate) fn answer(upstream: &str, address: SocketAddr, list: ListTooLong) -> TooLong {
        TooLong::refused(Whose::Answer { upstream: upstream.to_owned(), address }, list)
    }

    /// The limit's name: a key of `[gateway.limits]`, if there is one.
    fn limit(&self) -> &'static str {
        match (&self.whose, self.list.above()) {
            (Whose::CallTo { .. }, _) => "SETTINGS_MAX_HEADER_LIST_SIZE",
            (Whose::Call, ListLimit::Bytes) => "header_bytes",
            (Whose::Answer { .. }, ListLimit::Bytes) => "answer_header_bytes",
            (_, ListLimit::Fields) => "header_fields",
            (_, ListLimit::Referenced) => "repeated_header_bytes",
        }
    }

    /// The error as the caller gets it.
    pub(crate) fn fault(&self, message: String) -> ApiError {
        let reason = match self.whose {
            Whose::Call => reason::HEADERS_TOO_LONG,
            Whose::CallTo { .. } => reason::HEADERS_TOO_LONG_FOR_UPSTREAM,
            Whose::Answer { .. } => reason::ANSWER_HEADERS_TOO_LONG,
        };
        let fault = ApiError::new(Code::ResourceExhausted, reason, message)
            .meta("limit", self.limit())
            .meta("allowed", self.list.limit().to_string())
            .meta("size", self.list.size().to_string());
        match &self.whose {
            Whose::Call => fault,
            Whose::CallTo { upstream, address } | Whose::Answer { upstream, address } => {
                fault.meta("upstream", upstream.clone()).meta("endpoint", address.to_string())
            }
        }
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLong { whose, list } = self;
        match whose {
            Whose::Call => write!(f, "the call's {list}")?,
            Whose::CallTo { upstream, address } => {
                return write!(
                    f,
                    "the call's {list} that `{upstream}` ({address}) has announced ({})",
                    self.limit()
                );
            }
            Whose::Answer { upstream, address } => {
                write!(f, "the answer of `{upstream}` ({address}) was dropped: its {list}")?;
            }
        }
        match list.above() {
            ListLimit::Referenced => Ok(()),
            ListLimit::Bytes | ListLimit::Fields => write!(f, " ([gateway.limits] {})", self.limit()),
        }
    }
}
