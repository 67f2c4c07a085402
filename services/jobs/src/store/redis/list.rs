//! Reads many jobs on Redis: counts and pages, each of one instant.

use bytes::Bytes;
use redis::Value;

use super::failure::read_error;
use super::script::{Fields, big_endian, read};
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::State;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::request::page_token;
use crate::store::{Counts, PAGE_LOOKS_MAX, Page, record};

impl RedisStore {
    /// Counts the jobs of a queue.
    pub(super) async fn count_jobs(&self, queue: &QueueName) -> Result<Option<Counts>, Error> {
        let reply = self.run(&script::COUNT, queue, &[]).await?;
        let (counts, head, now): ([i64; 7], Vec<u8>, u64) = {
            let mut parts = reply.into_iter();
            let mut next = || parts.next().unwrap_or(Value::Nil);
            let mut counts = [0; 7];
            for count in &mut counts {
                *count = read(next())?;
            }
            (counts, read(next())?, read(next())?)
        };
        if counts == [0; 7] {
            let mut registered = redis::cmd("ZSCORE");
            registered.arg(self.registry()).arg(queue.as_str());
            let registered: Option<f64> = self.link.query(&registered).await.map_err(read_error)?;
            if registered.is_none() {
                return Ok(None);
            }
        }
        let [scheduled, ready, running, succeeded, retrying, dead, cancelled] =
            counts.map(|count| u64::try_from(count).unwrap_or(0));
        let head = (!head.is_empty()).then(|| Moment(big_endian(&head)));
        let now = Moment(now);
        Ok(Some(Counts { scheduled, ready, running, succeeded, retrying, dead, cancelled, head, now }))
    }

    /// Lists jobs of a queue in one state.
    pub(super) async fn list_jobs(
        &self,
        queue: &QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> Result<Page, Error> {
        let numbers =
            [state as usize, max, PAGE_LOOKS_MAX, record::BRIEF_LEN].map(|number| number.to_string());
        let mut args: Vec<&[u8]> = numbers.iter().map(|number| number.as_bytes()).collect();
        let after = after.unwrap_or_default();
        args.push(after.as_bytes());
        let mut reply = self.run(&script::LIST, queue, &args).await?.into_iter();
        let token: String = read(reply.next().unwrap_or(Value::Nil))?;
        if token == "?" {
            return Err(page_token::invalid().into());
        }
        let jobs = reply.map(|value| {
            let (tail, header, fields): (String, Bytes, Fields) = read(value)?;
            let id = JobId::of_tail(queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
            let header = header.slice_ref(record::without_payload(&header));
            script::job(&id, Some(header), &fields)?.ok_or_else(|| Error::not_found(&id))
        });
        Ok(Page { jobs: jobs.collect::<Result<_, _>>()?, next: (!token.is_empty()).then_some(token) })
    }
}
