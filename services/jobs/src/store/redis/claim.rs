//! Leases on Redis: claim, extend, give back.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use shoal_kit::EngineError;
use tokio::time::Instant;

use super::failure::error;
use super::script::{Fields, millis, read};
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::request::lease::LeaseRequest;
use crate::store::{CLAIM_BYTES_MAX, Claim};

/// Time for which a ticket is remembered: longer than a call can be under way.
const TICKET_TTL: Duration = Duration::from_secs(60);

impl RedisStore {
    /// Claims ready jobs.
    pub(super) async fn claim(&self, request: LeaseRequest, ticket: String) -> Result<Claim, Error> {
        let queue = &request.queue;
        let (max_jobs, bytes_max) = (request.max_jobs.to_string(), CLAIM_BYTES_MAX.to_string());
        let (duration, ttl) = (millis(request.duration), millis(TICKET_TTL));
        let args: [&[u8]; 6] = [
            ticket.as_bytes(),
            max_jobs.as_bytes(),
            &duration,
            request.worker.as_bytes(),
            bytes_max.as_bytes(),
            &ttl,
        ];
        let asked = Instant::now();
        let reply = match self.run(&script::LEASE, queue, &args).await {
            Err(unknown @ Error::Engine(EngineError::Unknown { .. })) => {
                self.note_within(queue, request.duration);
                return Err(unknown);
            }
            reply => reply?,
        };
        let mut parts = reply.into_iter();
        let mut number = || -> Result<u64, Error> { read(parts.next().unwrap_or(Value::Nil)) };
        let (fence, expire, more) = (number()?, Moment(number()?), number()? == 1);
        let jobs = parts.map(|value| {
            let (tail, header, fields): (String, Bytes, Fields) = read(value)?;
            let id = JobId::of_tail(queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
            script::job(&id, Some(header), &fields)?.ok_or_else(|| Error::not_found(&id))
        });
        let claim = Claim { fence, expire, jobs: jobs.collect::<Result<_, _>>()?, more };
        if !claim.jobs.is_empty() {
            self.known().note(queue);
            self.notes().due.note(queue, asked + request.duration);
        }
        Ok(claim)
    }

    /// Moves the end of a lease.
    pub(super) async fn extend_lease(
        &self,
        id: &JobId,
        fence: u64,
        duration: Duration,
    ) -> Result<Moment, Error> {
        let (text, sooner) = (fence.to_string(), Instant::now() + duration);
        let duration = millis(duration);
        let args = [id.tail().as_bytes(), text.as_bytes(), &duration];
        let mut reply = self.run(&script::EXTEND, id.queue(), &args).await?.into_iter();
        let mut next = || reply.next().unwrap_or(Value::Nil);
        match read::<String>(next())?.as_str() {
            "ok" => {
                self.notes().due.note(id.queue(), sooner);
                read(next()).map(Moment)
            }
            "lost" => Err(Error::LeaseLost { id: id.clone(), fence }),
            _ => Err(Error::not_found(id)),
        }
    }

    /// Gives back what the call of a ticket claimed.
    pub(super) async fn release_claim(&self, queue: &QueueName, ticket: &str) -> Result<(), Error> {
        let root = self.root(queue);
        let ttl = millis(TICKET_TTL);
        let args = [self.wake.as_bytes(), queue.as_str().as_bytes(), ticket.as_bytes(), &ttl];
        let _: i64 = self.link.script(&script::RELEASE, &[root.as_bytes()], &args).await.map_err(error)?;
        Ok(())
    }
}
