//! A response body that ends a stream at its deadline or at the drain, and reports the call's code when it is over.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use crate::serving::answer::Leaving;
use crate::serving::framework_error::framework_error;

/// Called once with the call's code.
pub(crate) trait Finish: Send {
    /// Runs a function as part of the call.
    fn within<T>(&self, function: impl FnOnce() -> T) -> T;

    fn finish(self, code: Code);
}

/// Resolves to the status a stream is cut with.
pub(crate) type StreamCutoff = Pin<Box<dyn Future<Output = Status> + Send>>;

pub(crate) struct RpcBody<F: Finish> {
    cutoff: Option<StreamCutoff>,
    finish: Option<F>,
    leaving: Leaving,
    ended: bool,
}

impl<F: Finish> RpcBody<F> {
    pub(crate) fn new(cutoff: Option<StreamCutoff>, finish: F, leaving: Leaving) -> Self {
        Self { cutoff, finish: Some(finish), leaving, ended: false }
    }

    /// The headers already carried the code: a trailers-only answer.
    pub(crate) fn end_with_headers(&mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        self.ended = true;
        if let Some(finish) = self.finish.take() {
            finish.finish(code);
        }
    }
}

impl<F: Finish + Unpin> Body for RpcBody<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let RpcBody { finish, leaving, .. } = &mut *self;
        let polled = match finish {
            Some(finish) => finish.within(|| leaving.poll_frame(cx)),
            None => leaving.poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let Some(trailers) = frame.trailers_ref() else { return Poll::Ready(Some(Ok(frame))) };
                let code = code_of(trailers).unwrap_or(Code::Unknown);
                let Some(status) = framework_error(code, trailers) else {
                    self.end(code);
                    return Poll::Ready(Some(Ok(frame)));
                };
                self.end(status.code());
                Poll::Ready(Some(trailers_of(&status)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.end(error.code());
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.end(Code::Ok);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(cutoff) = self.cutoff.as_mut() else { return Poll::Pending };
                let status = std::task::ready!(cutoff.as_mut().poll(cx));
                self.cutoff = None;
                self.end(status.code());
                Poll::Ready(Some(trailers_of(&status)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl<F: Finish> Drop for RpcBody<F> {
    fn drop(&mut self) {
        // The caller went away before the end.
        if let Some(finish) = self.finish.take() {
            finish.finish(Code::Cancelled);
        }
    }
}

fn trailers_of(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// Looked up for every call: written out, it would be parsed each time.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The code in a set of headers or trailers.
pub(crate) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(&GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
