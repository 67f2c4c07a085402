//! The steps of leases: claim, extend, give back, end.

use std::time::Duration;

use prost::Message;
use shoal_embedded::Slice;

use super::super::layout::{self, ClaimRecord, End, QueueRecord};
use super::{Live, Step, damaged, engine, ready_from, tail_of};
use crate::error::Error;
use crate::job::State;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::request::lease::LeaseRequest;
use crate::store::{CLAIM_BYTES_MAX, Claim, PROMOTE_MAX, record};

/// Time for which a ticket that claimed nothing is remembered.
const TICKET_TTL: Duration = Duration::from_secs(60);

impl Step<'_, '_> {
    pub(in super::super) fn lease(&mut self, request: &LeaseRequest, ticket: &str) -> Result<Claim, Error> {
        let queue = &request.queue;
        let now = self.now();
        let mut claim =
            Claim { fence: 0, expire: now.after(request.duration), jobs: Vec::new(), more: false };
        let ticket_key = layout::of_queue(queue, ticket.as_bytes());
        if self.get(&self.layout.queues, queue.as_str())?.is_none()
            || self.get(&self.layout.tickets, &ticket_key)?.is_some()
        {
            return Ok(claim);
        }
        let mut marks = self.queue_record(queue)?;
        let promoted = self.promote(queue, &mut marks)?;
        let fence = self.now_us.max(marks.fence + 1);
        let (mut bytes, mut skipped) = (0, 0);
        for place in self.tx.range(&self.layout.ready, ready_from(queue, marks.head)) {
            let (key, tail) = place.map_err(engine)?;
            let id = tail_of(queue, &tail)?;
            let header = self.get(&self.layout.jobs, layout::job(&id))?;
            let live = self.live(&id)?.filter(|live| live.progress.state == State::Ready);
            if let (Some(header), Some(Live { mut progress, .. })) = (header, live) {
                let full = claim.jobs.len() == request.max_jobs
                    || (!claim.jobs.is_empty() && bytes + header.len() > CLAIM_BYTES_MAX);
                if full {
                    claim.more = true;
                    break;
                }
                bytes += header.len();
                progress.lease(now);
                marks.moved(Some(State::Ready), Some(State::Running));
                self.keep(&id, &progress, fence, None);
                claim.jobs.push(record::job(&id, &header, progress)?);
            } else if skipped == PROMOTE_MAX {
                claim.more = true;
                break;
            } else {
                // The job was cancelled.
                skipped += 1;
            }
            let (place, _) = layout::number_in(queue, &key).ok_or_else(|| damaged("ready list"))?;
            marks.head = place + 1;
            self.tx.delete(&self.layout.ready, key);
        }
        if claim.jobs.is_empty() {
            if promoted + skipped > 0 {
                self.put_queue_record(queue, &marks);
            }
            return Ok(claim);
        }
        claim.fence = fence;
        marks.fence = fence;
        marks.records += 1;
        let claimed = ClaimRecord {
            expire: claim.expire.0,
            ticket: ticket.to_owned(),
            worker: request.worker.clone(),
            tails: claim.jobs.iter().map(|job| job.id.tail().to_owned()).collect(),
            left: claim.jobs.len() as u32,
        };
        self.tx.put(&self.layout.claims, layout::numbered(queue, fence, &[]), claimed.encode_to_vec());
        let lease = layout::numbered(queue, claim.expire.0, &fence.to_be_bytes());
        self.tx.put(&self.layout.leases, lease, Slice::from([]));
        self.tx.put(&self.layout.tickets, ticket_key, fence.to_be_bytes());
        self.put_queue_record(queue, &marks);
        self.news.due.push((queue.clone(), claim.expire));
        Ok(claim)
    }

    pub(in super::super) fn release(&mut self, queue: &QueueName, ticket: &str) -> Result<(), Error> {
        let key = layout::of_queue(queue, ticket.as_bytes());
        let mut marks = self.queue_record(queue)?;
        let fence = match self.get(&self.layout.tickets, &key)? {
            None => {
                let forget = self.now().after(TICKET_TTL);
                self.tx.put(&self.layout.ends, layout::end(forget, End::Ticket, &key), Slice::from([]));
                self.tx.put(&self.layout.tickets, key, 0_u64.to_be_bytes());
                marks.records += 1;
                self.put_queue_record(queue, &marks);
                return Ok(());
            }
            Some(value) => u64::from_be_bytes(value[..].try_into().map_err(|_| damaged("ticket"))?),
        };
        let Some(claimed) = self.claimed(queue, fence)? else { return Ok(()) };
        let was_empty = self.is_empty(queue, &marks)?;
        let mut given_back = false;
        for tail in claimed.tails.iter().rev() {
            let Some(id) = JobId::of_tail(queue, tail) else { continue };
            if let Some(mut live) = self.live(&id)?.filter(|live| live.fence == fence) {
                live.progress.release();
                marks.moved(Some(State::Running), Some(State::Ready));
                marks.head -= 1;
                self.tx.put(&self.layout.ready, layout::numbered(queue, marks.head, &[]), tail.as_bytes());
                self.keep(&id, &live.progress, 0, None);
                given_back = true;
            }
        }
        if was_empty && given_back {
            self.news.ready.push(queue.clone());
        }
        self.end_claim(queue, fence, &claimed, &mut marks);
        self.put_queue_record(queue, &marks);
        Ok(())
    }

    pub(in super::super) fn extend(
        &mut self,
        id: &JobId,
        fence: u64,
        duration: Duration,
    ) -> Result<Moment, Error> {
        self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let held = self.live(id)?.map_or(0, |live| live.fence);
        let claimed = if held == fence { self.claimed(id.queue(), fence)? } else { None };
        let Some(mut claimed) = claimed else { return Err(Error::LeaseLost { id: id.clone(), fence }) };
        let expire = self.now().after(duration);
        let lease = |expire| layout::numbered(id.queue(), expire, &fence.to_be_bytes());
        self.tx.delete(&self.layout.leases, lease(claimed.expire));
        self.tx.put(&self.layout.leases, lease(expire.0), Slice::from([]));
        claimed.expire = expire.0;
        self.tx.put(&self.layout.claims, layout::numbered(id.queue(), fence, &[]), claimed.encode_to_vec());
        self.news.due.push((id.queue().clone(), expire));
        Ok(expire)
    }

    /// Takes one job out of its claim. The last one ends the claim.
    pub(super) fn let_go(
        &mut self,
        queue: &QueueName,
        fence: u64,
        marks: &mut QueueRecord,
    ) -> Result<(), Error> {
        let Some(mut claimed) = self.claimed(queue, fence)? else { return Ok(()) };
        claimed.left = claimed.left.saturating_sub(1);
        if claimed.left == 0 {
            self.end_claim(queue, fence, &claimed, marks);
        } else {
            let key = layout::numbered(queue, fence, &[]);
            self.tx.put(&self.layout.claims, key, claimed.encode_to_vec());
        }
        Ok(())
    }

    pub(super) fn claimed(&self, queue: &QueueName, fence: u64) -> Result<Option<ClaimRecord>, Error> {
        let Some(bytes) = self.get(&self.layout.claims, layout::numbered(queue, fence, &[]))? else {
            return Ok(None);
        };
        ClaimRecord::decode(&bytes[..]).map(Some).map_err(|_| damaged("claim"))
    }

    pub(super) fn end_claim(
        &mut self,
        queue: &QueueName,
        fence: u64,
        claimed: &ClaimRecord,
        marks: &mut QueueRecord,
    ) {
        self.tx.delete(&self.layout.claims, layout::numbered(queue, fence, &[]));
        self.tx.delete(&self.layout.leases, layout::numbered(queue, claimed.expire, &fence.to_be_bytes()));
        self.tx.delete(&self.layout.tickets, layout::of_queue(queue, claimed.ticket.as_bytes()));
        marks.records = marks.records.saturating_sub(1);
    }
}
