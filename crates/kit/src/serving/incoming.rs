//! The body of a request, from an HTTP/2 stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use shoal_http2::{Error, Reason, RecvStream};
use tonic::{Code, Status};

/// The body of a request as it arrives.
#[derive(Debug)]
pub struct Incoming(pub(crate) RecvStream);

impl Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                self.0.release(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(status_of(&error)))),
            None => {}
        }
        match ready!(self.0.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(status_of(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// Returns the status of a request that broke off (gRPC over HTTP/2, "Errors").
fn status_of(error: &Error) -> Status {
    let code = match error.reason() {
        None | Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}
