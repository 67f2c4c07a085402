//! One attempt of a call: both halves moved by one task, in one future, until either the endpoint's answer is handed on
//! or something breaks. Spawns nothing and boxes nothing.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use shoal_balance::Pick;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::caller::Caller;
use crate::download::{Download, Downloaded};
use crate::upload::{Upload, Uploaded};

/// What an attempt is made of.
pub(crate) struct Exchange<'a> {
    caller: &'a mut Caller,
    upload: &'a mut Upload,
    pick: &'a mut Pick,
    stream: SendStream<Bytes>,
    answer: Answer,
    uploading: bool,
    deadline: Option<Instant>,
    /// Whether an answer that is nothing but UNAVAILABLE is given back instead of handed on.
    withhold: bool,
}

enum Answer {
    Awaited(ResponseFuture),
    Coming(Download),
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Exchanged {
    /// The endpoint's answer was handed on to its end.
    Answered(Code),
    /// The endpoint answered UNAVAILABLE and nothing else. Nothing was handed on.
    Withheld(Response<()>),
    /// The endpoint gave up because the caller's time was up.
    Late,
    /// The endpoint's stream broke.
    Broken(h2::Error),
    /// The caller went away. The endpoint is to be told, by a reset of this stream with this reason.
    CallerGone(SendStream<Bytes>, Reason),
}

/// The caller went away, for this reason.
struct CallerGone(Reason);

/// It took no more, and why will not be known.
const CANCELLED: CallerGone = CallerGone(Reason::CANCEL);

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        caller: &'a mut Caller,
        upload: &'a mut Upload,
        pick: &'a mut Pick,
        (response, stream): (ResponseFuture, SendStream<Bytes>),
        ended: bool,
        deadline: Option<Instant>,
        withhold: bool,
    ) -> Exchange<'a> {
        let answer = Answer::Awaited(response);
        Exchange { caller, upload, pick, stream, answer, uploading: !ended, deadline, withhold }
    }

    /// Runs it to its end.
    pub(crate) async fn run(mut self) -> Exchanged {
        match std::future::poll_fn(|cx| self.poll(cx)).await {
            Ok(exchanged) => exchanged,
            Err(CallerGone(reason)) => Exchanged::CallerGone(self.stream, reason),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchanged, CallerGone>> {
        if let Poll::Ready(reason) = self.caller.poll_gone(cx) {
            return Poll::Ready(Err(CallerGone(reason)));
        }
        if self.uploading
            && let Poll::Ready(uploaded) = self.upload.poll(cx, &mut self.stream)
        {
            self.uploading = false;
            if let Uploaded::CallerGone(error) = uploaded {
                return Poll::Ready(Err(CallerGone(error.reason().unwrap_or(Reason::CANCEL))));
            }
        }
        loop {
            match &mut self.answer {
                Answer::Awaited(response) => match std::task::ready!(Pin::new(response).poll(cx)) {
                    Err(error) => return Poll::Ready(Ok(Exchanged::Broken(error))),
                    Ok(response) => {
                        if let Some(end) = self.answered(response)? {
                            return Poll::Ready(Ok(end));
                        }
                    }
                },
                Answer::Coming(download) => {
                    let Some(to) = self.caller.body() else { return Poll::Ready(Err(CANCELLED)) };
                    let downloaded = std::task::ready!(download.poll(cx, to));
                    return Poll::Ready(self.ended(downloaded));
                }
            }
        }
    }

    /// Response headers are here. Says how the attempt ended, if it did.
    fn answered(&mut self, response: Response<h2::RecvStream>) -> Result<Option<Exchanged>, CallerGone> {
        self.pick.first_response();
        let (parts, body) = response.into_parts();
        let response = Response::from_parts(parts, ());
        if !body.is_end_stream() {
            self.upload.forget();
            self.caller.head(response, false).map_err(|_| CANCELLED)?;
            self.answer = Answer::Coming(Download::new(body));
            return Ok(None);
        }
        let code = code_of(response.headers());
        if code == Code::Cancelled && self.is_late() {
            return Ok(Some(Exchanged::Late));
        }
        if code == Code::Unavailable && self.withhold {
            return Ok(Some(Exchanged::Withheld(response)));
        }
        self.caller.head(response, true).map_err(|_| CANCELLED)?;
        Ok(Some(Exchanged::Answered(code)))
    }

    fn ended(&mut self, downloaded: Downloaded) -> Result<Exchanged, CallerGone> {
        let (code, trailers) = match downloaded {
            Downloaded::Trailers(trailers) => (code_of(&trailers), Some(trailers)),
            Downloaded::NoTrailers => (Code::Unknown, None),
            Downloaded::Broken(error) => return Ok(Exchanged::Broken(error)),
            Downloaded::CallerGone => return Err(CANCELLED),
        };
        // tonic's servers answer CANCELLED when the time they were given is up.
        if code == Code::Cancelled && self.is_late() {
            return Ok(Exchanged::Late);
        }
        let to = self.caller.body().ok_or(CANCELLED)?;
        let sent = match trailers {
            Some(trailers) => to.send_trailers(trailers),
            None => to.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| CANCELLED)?;
        Ok(Exchanged::Answered(code))
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// The gRPC status of headers or trailers; an answer without one is UNKNOWN.
pub(crate) fn code_of(headers: &HeaderMap) -> Code {
    headers.get(Status::GRPC_STATUS).map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}
