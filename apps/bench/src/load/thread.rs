//! A thread that makes calls: each call, from the moment it is due to its answer, and the counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::load::call::with_metadata;
use crate::load::connections::Connections;
use crate::load::measured::{Measured, NotIssued, micros};
use crate::load::run::Run;
use crate::load::target::Request;

/// Times that a call is made again which servers did not process.
const RETRIES_MAX: u32 = 5;

/// Status codes of calls that have no answer to take one from, as gRPC's clients give them.
const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;
const UNAVAILABLE: u16 = 14;

/// State of one thread that makes calls.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) run: Arc<Run>,
    pub(super) connections: Arc<Connections>,
    pub(super) counted: Mutex<Measured>,
}

/// A call that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) request: Request,
}

impl Thread {
    /// Adds to what this thread has counted.
    pub(super) fn count(&self, due: Instant, add: impl FnOnce(&mut Measured)) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if self.run.counts(due) {
            add(&mut counted);
        }
    }

    /// Notes that a call was due and will not be made.
    pub(super) fn not_issued(&self, due: Instant, reason: NotIssued) {
        self.run.live.not_issued(true);
        self.count(due, |counted| {
            counted.due += 1;
            *counted.not_issued.entry(reason).or_default() += 1;
        });
    }

    /// Makes a call, waiting for a place on a connection if there is none, and counts it. If the caller drops this before
    /// it is done, the call has failed with DEADLINE_EXCEEDED. Returns true if it was answered OK.
    pub(super) async fn call(&self, due: Due, turned_to: Instant) -> bool {
        self.run.live.issued();
        let waits = self.connections.full();
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.generator.calls += 1;
            if self.run.counts(due.at) {
                counted.due += 1;
                counted.issued += 1;
                counted.waited_for_stream += u64::from(waits);
                // Grows as it needs to, and so does not fail.
                let _ = counted.lateness.record(micros(turned_to.saturating_duration_since(due.at)));
            }
        }
        let unanswered = Unanswered { thread: self, due: due.at };
        let Some(stream) = self.connections.stream().await else { return false };
        let method = &self.run.target.workload.methods()[due.request.method];
        let uri = stream.uri(due.request.method);
        let mut retries = 0;
        let (sent, answer) = loop {
            let sent = Instant::now();
            let framed = due.request.framed.clone();
            let answer = with_metadata(&mut stream.sender(), uri, &method.metadata, framed, None).await;
            match &answer {
                Err(error) if retries < RETRIES_MAX && never_processed(error) && stream.renew().await => {
                    retries += 1;
                }
                _ => break (sent, answer),
            }
        };
        let answered = Instant::now();
        std::mem::forget(unanswered);
        match answer {
            Ok(answer) if self.run.target.accepts(answer.status) => {
                self.ok(due.at, sent, answered);
                return true;
            }
            Ok(answer) => {
                let code = answer.status.unwrap_or(UNKNOWN);
                let no_status = answer.status.is_none();
                self.failed(due.at, code, || match no_status {
                    true => "the answer has no grpc-status".to_owned(),
                    false => answer.message,
                });
            }
            Err(error) => {
                self.failed(due.at, UNAVAILABLE, || format!("{error:#}"));
                stream.renew().await;
            }
        }
        false
    }

    fn ok(&self, due: Instant, sent: Instant, answered: Instant) {
        let response_time = answered.saturating_duration_since(due);
        self.run.live.answered(Some(response_time));
        let within = self.run.within(answered);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.ok_within += u64::from(within);
        if self.run.counts(due) {
            counted.ok += 1;
            let _ = counted.response_time.record(micros(response_time));
            let _ = counted.service_time.record(micros(answered.saturating_duration_since(sent)));
        }
    }

    fn failed(&self, due: Instant, code: u16, message: impl FnOnce() -> String) {
        self.run.live.answered(None);
        self.count(due, |counted| counted.error(code, message));
    }

    /// Returns what was counted; the CPU time is that of the calling thread.
    pub(super) fn finish(&self) -> anyhow::Result<Measured> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = std::mem::replace(&mut *counted, Measured::empty()?);
        counted.generator.spent(self.run.begun.elapsed());
        Ok(counted)
    }
}

/// Returns true if the server said that it did not process a call: it closes the connection, or has no room on it. As in
/// gRPC's clients, such a call is made again.
fn never_processed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        _ => false,
    })
}

/// A call without an answer; dropped, it has failed.
struct Unanswered<'t> {
    thread: &'t Thread,
    due: Instant,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let waited = || "no answer when the run was over".to_owned();
        self.thread.failed(self.due, DEADLINE_EXCEEDED, waited);
    }
}
