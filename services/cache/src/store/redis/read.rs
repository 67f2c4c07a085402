//! A look at entries: one round trip and no script, for as a script the same read would cost Redis many times more.
//!
//! The entries, the state of their shard and the stamps of the tags that they are expected to have are asked for in one pipeline. An
//! entry whose tags turn out to be others is judged by stamps of a second one: they are newer than the entry, which makes more misses
//! and never a stale hit.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::try_join_all;
use redis::{Pipeline, Value};
use shoal_redis_link::Link;
use shoal_tag_clock::{Judge, Process, Shard, Strength, Verdict};

use super::frame::Frame;
use super::{ENTRY, LEASE, Lease, RedisStore, broken, read_error, record};
use crate::key::{Key, Tags};
use crate::store::{Found, MissReason, StoreError};

/// The state of a shard as a pipeline found it.
struct State {
    /// `None` if it is missing, or was made in another process.
    epoch: Option<u64>,
    floor: u64,
    stamps: HashMap<String, [u64; 2]>,
}

/// A read of one key.
struct Read {
    frame: Option<Frame>,
    lease: Option<Lease>,
    /// The milliseconds for which Redis keeps the entry, if that was asked.
    left: Option<u64>,
}

/// The tags whose stamps are asked for; each once.
#[derive(Default)]
struct Asked(Vec<String>);

impl Asked {
    fn add(&mut self, tags: &Tags) {
        for tag in tags.as_slice() {
            if !self.0.contains(tag) {
                self.0.push(tag.clone());
            }
        }
    }
}

impl RedisStore {
    /// Looks at keys of one namespace, in order.
    pub(super) async fn read(&self, keys: &[Key], leases: bool) -> Result<Vec<Found>, StoreError> {
        let shards = self.by_shard(keys).await?;
        let reads = shards.iter().map(|(shard, indexes)| self.read_shard(shard, keys, indexes, leases));
        let mut found: Vec<Option<Found>> = keys.iter().map(|_| None).collect();
        for (index, one) in try_join_all(reads).await?.into_iter().flatten() {
            found[index] = Some(one);
        }
        found.into_iter().map(|one| one.ok_or_else(|| broken("no answer for a key"))).collect()
    }

    async fn read_shard(
        &self,
        shard: &Shard,
        keys: &[Key],
        indexes: &[usize],
        leases: bool,
    ) -> Result<Vec<(usize, Found)>, StoreError> {
        let Some(first) = indexes.first().map(|index| &keys[*index]) else { return Ok(Vec::new()) };
        let (link, namespace) = (self.link_of(first), first.namespace());
        let lives = self.hints.has_window(namespace);
        let mut asked = Asked::default();
        for index in indexes {
            asked.add(&self.hints.tags(&keys[*index]));
        }
        let ask = |pipe: &mut Pipeline| {
            for index in indexes {
                let name = keys[*index].name();
                pipe.cmd("GET").arg(shard.key(ENTRY, name));
                if lives {
                    pipe.cmd("PTTL").arg(shard.key(ENTRY, name));
                }
                if leases {
                    pipe.cmd("GET").arg(shard.key(LEASE, name));
                }
            }
        };
        let (mut state, replies) = self.asked(link, shard, &asked, ask).await?;
        let mut replies = replies.into_iter();
        let mut reads = Vec::with_capacity(indexes.len());
        for _ in indexes {
            let frame = match replies.next() {
                // A frame of another version is no error: while versions roll it is a miss.
                Some(Value::BulkString(entry)) => Frame::decode(Bytes::from(entry)),
                _ => None,
            };
            let left = if lives { left_of(replies.next().as_ref()) } else { None };
            let lease = if leases { replies.next().as_ref().and_then(Lease::decode) } else { None };
            reads.push(Read { frame, lease, left });
        }
        self.ask_missing(shard, keys, indexes, &asked, &mut state, &mut reads).await?;
        let found = |(index, read): (&usize, Read)| (*index, self.judge(&keys[*index], read, &state));
        Ok(indexes.iter().zip(reads).map(found).collect())
    }

    /// Asks for the stamps and lives that were not guessed.
    async fn ask_missing(
        &self,
        shard: &Shard,
        keys: &[Key],
        indexes: &[usize],
        asked: &Asked,
        state: &mut State,
        reads: &mut [Read],
    ) -> Result<(), StoreError> {
        let mut missing = Asked::default();
        let mut lives = Vec::new();
        let current = state.epoch;
        for (at, read) in reads.iter().enumerate() {
            let Some(frame) = read.frame.as_ref().filter(|frame| Some(frame.epoch) == current) else {
                continue;
            };
            if !frame.tags.as_slice().iter().all(|tag| asked.0.contains(tag)) {
                missing.add(&frame.tags);
            }
            if frame.window.is_some() && read.left.is_none() {
                self.hints.note_window(keys[indexes[at]].namespace());
                lives.push(at);
            }
        }
        let Some(first) = indexes.first().filter(|_| !missing.0.is_empty() || !lives.is_empty()) else {
            return Ok(());
        };
        let ask = |pipe: &mut Pipeline| {
            for at in &lives {
                pipe.cmd("PTTL").arg(shard.key(ENTRY, keys[indexes[*at]].name()));
            }
        };
        let (newer, replies) = self.asked(self.link_of(&keys[*first]), shard, &missing, ask).await?;
        for (at, reply) in lives.iter().zip(replies) {
            // One that has gone meanwhile was kept until a moment ago.
            reads[*at].left = Some(left_of(Some(&reply)).unwrap_or(0));
        }
        state.floor = state.floor.max(newer.floor);
        state.stamps.extend(newer.stamps);
        if newer.epoch != state.epoch {
            state.epoch = None;
        }
        Ok(())
    }

    /// Sends a pipeline that also asks for the state of the shard and these stamps.
    async fn asked(
        &self,
        link: &Link,
        shard: &Shard,
        tags: &Asked,
        ask: impl Fn(&mut Pipeline),
    ) -> Result<(State, Vec<Value>), StoreError> {
        let returned = self.clock.returned_at(self.clock.guess(shard)).is_some();
        let whole = |pipe: &mut Pipeline| {
            ask(pipe);
            pipe.cmd("ZMSCORE").arg(shard.state()).arg("e").arg("r").arg("f");
            if returned {
                pipe.arg("m");
            }
            for tag in &tags.0 {
                for strength in [Strength::Hard, Strength::Soft] {
                    pipe.arg(format!("{}{tag}", strength.mark()));
                }
            }
        };
        let mut known = None;
        if self.clock.is_single() == Some(true) {
            let mut pipe = redis::pipe();
            whole(&mut pipe);
            let (replies, process) = link.pipeline_by(&pipe).await.map_err(read_error)?;
            known = process.map(|process| (Process::from_bits(process), replies));
        }
        let (process, mut replies) = match known {
            Some(known) => known,
            None => self.asked_of_node(link, whole).await?,
        };
        self.clock.note(shard, process);
        let scores = replies.pop().map(redis::from_redis_value::<Vec<Option<f64>>>);
        let Some(Ok(scores)) = scores else { return Err(broken("ZMSCORE answered no scores")) };
        let mut scores = scores.into_iter();
        let mut score = || scores.next().flatten();
        let (epoch, made_in, floor) = (score(), score(), score());
        let made_at = if returned { score() } else { None };
        let since = self.clock.returned_at(process);
        let fresh = since.is_none_or(|since| made_at.is_some_and(|made_at| made_at >= since as f64));
        let ours = made_in.map(Process::of_score) == Some(process);
        let number = |score: Option<f64>| score.unwrap_or(0.0) as u64;
        let stamps = tags.0.iter().map(|tag| (tag.clone(), [number(score()), number(score())])).collect();
        let epoch = epoch.filter(|_| fresh && ours).map(|epoch| epoch as u64);
        Ok((State { epoch, floor: number(floor), stamps }, replies))
    }

    /// Asks a Cluster, whose nodes are each asked for their process. A new connection is asked, and named so that it need not be
    /// asked again.
    async fn asked_of_node(
        &self,
        link: &Link,
        whole: impl Fn(&mut Pipeline),
    ) -> Result<(Process, Vec<Value>), StoreError> {
        if !self.runs.must_ask() {
            let mut pipe = redis::pipe();
            pipe.cmd("CLIENT").arg("GETNAME");
            whole(&mut pipe);
            let mut replies: Vec<Value> = link.pipeline(&pipe).await.map_err(read_error)?;
            if let Some(process) = self.runs.named(replies.first()) {
                replies.remove(0);
                return Ok((process, replies));
            }
        }
        let name = self.runs.new_name();
        let mut pipe = redis::pipe();
        pipe.cmd("CLIENT").arg("SETNAME").arg(&name).cmd("INFO").arg("server");
        whole(&mut pipe);
        let mut replies: Vec<Value> = link.pipeline(&pipe).await.map_err(read_error)?;
        let process = self.runs.learn(name, replies.get(1));
        replies.drain(..2.min(replies.len()));
        Ok((process.ok_or_else(|| broken("INFO server names no run_id"))?, replies))
    }

    fn judge(&self, key: &Key, read: Read, state: &State) -> Found {
        let Read { frame, lease, left } = read;
        let lease = lease.filter(|lease| Some(lease.epoch) == state.epoch).map(|lease| lease.token);
        let absent = |why| Found::Absent { lease, why, stale: None };
        let Some(frame) = frame else { return absent(MissReason::Absent) };
        if Some(frame.epoch) != state.epoch {
            return absent(MissReason::Epoch);
        }
        self.hints.note(key, &frame.tags);
        let mut judge = Judge::new(frame.built_at, state.floor);
        for (index, tag) in frame.tags.as_slice().iter().enumerate() {
            let [hard, soft] = state.stamps.get(tag).copied().unwrap_or_default();
            judge.tag(index, hard, soft);
        }
        let soft_stamp = match judge.verdict() {
            Verdict::Current => 0,
            Verdict::Expired { at } => at,
            Verdict::Invalidated { tag } => {
                let tag = tag.and_then(|index| frame.tags.as_slice().get(index)).cloned();
                return absent(MissReason::Invalidated { tag });
            }
        };
        let record = record(frame, left, soft_stamp);
        match record.stale {
            None => Found::Record(record),
            Some(_) => Found::Absent { lease, why: MissReason::Expired, stale: Some(record) },
        }
    }
}

/// Reads what PTTL answered; `None` if the key is gone.
fn left_of(reply: Option<&Value>) -> Option<u64> {
    match reply {
        Some(Value::Int(left)) => u64::try_from(*left).ok(),
        _ => None,
    }
}
