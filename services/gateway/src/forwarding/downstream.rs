//! The caller's end of a call: what was sent to it, and whether it is still there.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, Response};
use shoal_http2::{Error as Broken, Reason, SendResponse, SendStream};
use shoal_kit::access::{Access, AnsweredBy, Forwarded};
use shoal_kit::role::Role;
use tonic::Code;
use tracing::Span;

use crate::admission::connection_state::ConnectionState;
use crate::admission::unread_answers::UnreadAnswers;
use crate::error::Error;
use crate::forwarding::in_flight::InFlight;
use crate::forwarding::local_reply;

/// A caller's stream.
pub(crate) struct Downstream {
    respond: SendResponse,
    /// Once response headers are sent.
    stream: Option<SendStream>,
    /// Its call counts as long as there is somebody to answer.
    in_flight: InFlight,
    /// The facts of its access line, if there is to be one.
    access: Option<Box<Access>>,
}

/// Returns what an endpoint is told of a caller's reset. A caller that lost its connection, or broke it, is one that cancelled:
/// what was wrong between it and the gateway is not the endpoint's fault. So is one that says NO_ERROR.
pub(crate) fn handed_on(reason: Reason) -> Reason {
    match reason {
        Reason::NO_ERROR
        | Reason::PROTOCOL_ERROR
        | Reason::FLOW_CONTROL_ERROR
        | Reason::SETTINGS_TIMEOUT
        | Reason::STREAM_CLOSED
        | Reason::FRAME_SIZE_ERROR
        | Reason::COMPRESSION_ERROR
        | Reason::ENHANCE_YOUR_CALM => Reason::CANCEL,
        reason => reason,
    }
}

impl Downstream {
    pub(crate) fn new(respond: SendResponse, in_flight: InFlight, access: Option<Box<Access>>) -> Downstream {
        Downstream { respond, stream: None, in_flight, access }
    }

    /// Tells the access line which trace the call was put into.
    pub(crate) fn traced(&mut self, headers: &HeaderMap, span: &Span) {
        if let Some(access) = &mut self.access {
            access.traced(headers, span);
        }
    }

    /// Writes the access line of the call, which ended with `code`.
    pub(crate) fn log_access(&self, code: Code, took: Duration, forwarded: Option<Forwarded<'_>>) {
        if let Some(access) = &self.access {
            access.end(AnsweredBy { role: Role::Gateway, clone: "gateway", forwarded }, code, took);
        }
    }

    /// The connection it called on.
    pub(crate) fn client(&self) -> &Arc<ConnectionState> {
        &self.in_flight.client
    }

    /// Ready when the caller reset the stream or its connection is gone, with the reason to hand on; and when its calls are
    /// [ended](ConnectionState::is_cut), which its task is woken for.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let reset = match &mut self.stream {
            None => self.respond.poll_reset(cx),
            Some(stream) => stream.poll_reset(cx),
        };
        if reset.is_pending() && self.client().is_cut() {
            return Poll::Ready(Reason::CANCEL);
        }
        reset.map(|error| error.reason().filter(|_| error.is_reset()).map_or(Reason::CANCEL, handed_on))
    }

    /// Returns whether the caller is gone already.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Resolves when the caller is gone.
    pub(crate) async fn gone(&mut self) -> Reason {
        std::future::poll_fn(|cx| self.poll_gone(cx)).await
    }

    /// Sends response headers; `end` if nothing follows. Fails when the caller is gone.
    pub(crate) fn head(&mut self, response: &Response<()>, end: bool) -> Result<(), Broken> {
        self.stream = Some(self.respond.send_response(response, end)?);
        Ok(())
    }

    /// Where the body goes, once headers are sent.
    pub(crate) fn body(&mut self) -> Option<&mut SendStream> {
        self.stream.as_mut()
    }

    /// The same, and what its connection has not taken.
    pub(crate) fn takes(&mut self) -> Option<(&mut SendStream, &UnreadAnswers)> {
        Some((self.stream.as_mut()?, &self.in_flight.client.unread))
    }

    /// Ends the call with the gateway's own error: alone, or as the trailers of what was sent.
    pub(crate) fn fail(&mut self, error: Error) {
        match &mut self.stream {
            None => local_reply::refuse(&mut self.respond, error),
            Some(stream) => {
                let _ = stream.send_trailers(local_reply::trailers(error));
            }
        }
    }

    /// Hands on an endpoint's reset.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}
