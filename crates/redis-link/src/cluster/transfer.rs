//! Carries the keys of a half-moved slot to its new node, so that calls need not wait for the tool that began the move.
//!
//! A script that touches keys it does not declare runs nowhere while a slot is on two nodes (see
//! [`crate::cluster::slot_move`]). The first call that meets such a slot starts one task, which sends the node that gives the
//! slot away (the source) what `redis-cli --cluster reshard` sends: `CLUSTER GETKEYSINSLOT` and `MIGRATE`, until the source has
//! no key of the slot left. Calls wait as they do anyway, and go to the other node (the target) once the source is empty. The
//! slot itself is not handed over: that is left to the tool that began the move.
//!
//! Why this is safe:
//!
//! * A source gains no keys of the slot: it answers ASK for a key that is not there, and TRYAGAIN if only some are. So the
//!   number of its keys only falls, and a key that is there is the only one of its name that callers have been served from.
//! * `MIGRATE` is atomic for callers: the source serves nobody meanwhile, and deletes a key once the target has it.
//! * Nothing is overwritten, for `REPLACE` is never given: a key that the target has already (`BUSYKEY`) stays on both nodes,
//!   and ends the transfer.
//! * Several clones and `redis-cli` may carry the same keys: a late one gets `NOKEY`, which is no error.
//! * A `MIGRATE` that comes late does no harm: a target takes keys only while it imports the slot, or owns it and does not give
//!   it away. The only exception is a `MIGRATE` that is on its way while the slot moves there, back, and begins to move there
//!   again, and arrives between the two commands that begin the last move.
//! * Before each batch the source is asked whether the slot still moves, and where to: a move that was given up is not carried
//!   on. To give one up, turn this off first ([`LinkConfig::finish_moves`](crate::LinkConfig::finish_moves)): the keys that
//!   have gone are not brought back.
//! * No call relies on the transfer: each asks the source itself whether it is empty before it goes to the target.
//!
//! The source answers nobody during a `MIGRATE`, so a batch grows while batches are quick ([`BATCH_TIME`]) up to [`BATCH_MAX`]
//! keys, and shrinks when they are not. One large value blocks the source for as long as it takes to write it, whichever tool
//! moves it. A slot that cannot be carried is left alone for [`RETRY_AFTER`], and its calls are refused as if there were no
//! transfer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{Redirect, Shared};
use crate::cluster::slot_move::MOVE_WAIT;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::node::Node;

/// The keys of the first batch.
const BATCH_MIN: usize = 4;

/// The most keys of one batch.
const BATCH_MAX: usize = 100;

/// The time that a batch should take. After a batch that takes less than half of it the next one has twice as many keys, and
/// after one that takes longer half as many.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// The time after which the source gives up on a silent target. Until then the source answers no calls.
const MIGRATE_TIMEOUT: Duration = Duration::from_millis(500);

/// The time for the answer to a batch: large values take longer than a call.
const BATCH_DEADLINE: Duration = Duration::from_secs(5);

/// The longest time for which a task carries keys. The next call that meets the slot starts another task.
const TRANSFER_MAX: Duration = Duration::from_secs(30);

/// The pause after a transfer that failed, give or take a quarter: a source that cannot reach the target is blocked by each try.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The transfers of one link: at most one for each slot. Those that have succeeded are forgotten.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    slots: Mutex<HashMap<u16, Transfer>>,
    /// The kind of failure that the log told last; none since a transfer succeeded.
    told: Mutex<Option<&'static str>>,
}

#[derive(Debug)]
struct Transfer {
    task: AbortOnDropHandle<()>,
    /// The time from which a failed transfer may be tried again.
    retry_at: Arc<OnceLock<Instant>>,
}

/// The reason why keys cannot be carried.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    kind: &'static str,
    error: String,
}

/// The outcome of a transfer.
#[derive(Debug)]
enum End {
    /// The source has no key of the slot left, and had this many.
    Emptied(usize),
    /// The slot does not move any more, or cannot be looked at now; the next call finds out.
    Unclear,
    Refused(Refusal),
}

/// Starts to carry the keys of a slot away from `source`, unless a transfer is going on or failed shortly before. `absent` is a
/// key of the slot that never exists: the source's answer for it tells where the slot moves to.
pub(super) fn start(shared: &Arc<Shared>, source: Arc<Node>, slot: u16, absent: Vec<u8>) {
    let mut slots = shared.transfers.slots.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let is_held = |transfer: &Transfer| {
        !transfer.task.is_finished() || transfer.retry_at.get().is_some_and(|at| now < *at)
    };
    if slots.get(&slot).is_some_and(is_held) {
        return;
    }
    slots.retain(|_, transfer| is_held(transfer));
    let retry_at = Arc::new(OnceLock::new());
    let task = run(Arc::downgrade(shared), source, slot, absent, Arc::clone(&retry_at));
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    slots.insert(slot, Transfer { task, retry_at });
}

async fn run(
    shared: Weak<Shared>,
    source: Arc<Node>,
    slot: u16,
    absent: Vec<u8>,
    retry_at: Arc<OnceLock<Instant>>,
) {
    let end = carry(&shared, &source, slot, &absent).await;
    let Some(shared) = shared.upgrade() else { return };
    let role = shared.settings.role;
    let (outcome, told) = match end {
        End::Emptied(keys) => {
            if keys > 0 {
                tracing::info!(
                    slot,
                    role,
                    keys,
                    "the keys of a moving redis slot were carried to its new node"
                );
            }
            ("emptied", None)
        }
        End::Unclear => return,
        End::Refused(refusal) => {
            retry_at.get_or_init(|| Instant::now() + RETRY_AFTER.mul_f64(0.75 + fastrand::f64() / 2.0));
            let mut told = shared.transfers.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|kind| kind != refusal.kind) {
                let (error, advice) = (&refusal.error, refusal.advice());
                tracing::warn!(
                    slot, role, source = %source.endpoint(), error, advice,
                    "the keys of a moving redis slot cannot be carried: its calls wait and are then refused"
                );
            }
            *told = Some(refusal.kind);
            ("refused", Some(refusal.kind))
        }
    };
    if told.is_none() {
        *shared.transfers.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    metrics::counter!("shoal_redis_slot_transfers_total", "role" => role, "outcome" => outcome).increment(1);
}

/// Carries batches of keys until the source has none.
async fn carry(shared: &Weak<Shared>, source: &Node, slot: u16, absent: &[u8]) -> End {
    let begin = Instant::now();
    let (mut carried, mut size) = (0, BATCH_MIN);
    while begin.elapsed() < TRANSFER_MAX {
        let (target, keys) = match look(source, slot, absent, size).await {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(refusal) => return End::Refused(refusal),
        };
        if keys.is_empty() {
            return End::Emptied(carried);
        }
        let Some(shared) = shared.upgrade() else { break };
        // An address that this clone cannot reach either would block the source.
        if !shared.node(&target).healthy() {
            break;
        }
        let sent = Instant::now();
        match source.command(&migrate(&shared.settings, &target, &keys), sent + BATCH_DEADLINE).await {
            Ok(Value::ServerError(error)) => {
                return End::Refused(Refusal::of(&format!(
                    "{} {}",
                    error.code(),
                    error.details().unwrap_or_default()
                )));
            }
            Ok(_) => {}
            Err(error @ LinkError::Unknown(_)) => return End::Refused(Refusal::of(&error.to_string())),
            Err(_) => break,
        }
        let took = sent.elapsed();
        carried += keys.len();
        metrics::counter!("shoal_redis_slot_keys_carried_total", "role" => shared.settings.role)
            .increment(keys.len() as u64);
        size = next_size(size, took);
        drop(shared);
        // Nobody waits for it any more: others may use the source.
        if begin.elapsed() > MOVE_WAIT {
            sleep(took).await;
        }
    }
    End::Unclear
}

/// Asks the source where the slot moves to, and for some keys that it still has. Returns `None` if the slot does not move, or the
/// source does not answer.
async fn look(
    source: &Node,
    slot: u16,
    absent: &[u8],
    count: usize,
) -> Result<Option<(Endpoint, Vec<Vec<u8>>)>, Refusal> {
    let mut look = Pipeline::with_capacity(2);
    look.cmd("EXISTS").arg(absent).cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(count);
    let Ok(replies) = source.pipeline(&look, false, Instant::now() + BATCH_DEADLINE).await else {
        return Ok(None);
    };
    let [place, keys] = replies.as_slice() else { return Ok(None) };
    let Some(Redirect::Ask(target)) = Redirect::of(place) else { return Ok(None) };
    match keys {
        Value::ServerError(error) => {
            Err(Refusal::of(&format!("{} {}", error.code(), error.details().unwrap_or_default())))
        }
        keys => Ok(redis::from_redis_value(keys.clone()).ok().map(|keys| (target, keys))),
    }
}

fn migrate(settings: &Settings, target: &Endpoint, keys: &[Vec<u8>]) -> Cmd {
    let mut migrate = redis::cmd("MIGRATE");
    migrate.arg(&target.host).arg(target.port).arg("").arg(0).arg(MIGRATE_TIMEOUT.as_millis() as u64);
    match (settings.login.username(), settings.login.password()) {
        (Some(user), Some(password)) => {
            migrate.arg("AUTH2").arg(user).arg(password);
        }
        (None, Some(password)) => {
            migrate.arg("AUTH").arg(password);
        }
        (_, None) => {}
    }
    migrate.arg("KEYS").arg(keys);
    migrate
}

fn next_size(size: usize, took: Duration) -> usize {
    match took {
        _ if took > BATCH_TIME => (size / 2).max(1),
        _ if took < BATCH_TIME / 2 => (size * 2).min(BATCH_MAX),
        _ => size,
    }
}

impl Refusal {
    /// Reads the answer of Redis. An error of the target stands within the source's error.
    fn of(error: &str) -> Refusal {
        let kinds = ["BUSYKEY", "NOPERM", "IOERR", "NOAUTH", "WRONGPASS", "MOVED", "ASK", "OOM"];
        let kind = kinds.into_iter().find(|kind| error.split([' ', ':']).any(|word| word == *kind));
        Refusal { kind: kind.unwrap_or("other"), error: error.trim_end().to_owned() }
    }

    /// Returns advice on the failure.
    fn advice(&self) -> &'static str {
        match self.kind {
            "BUSYKEY" => "a key is on both nodes: finish the move with redis-cli --cluster fix",
            "NOPERM" => {
                "permit the user +exists +migrate +cluster|getkeysinslot on the one node and +restore-asking +select on the other, or \
                 finish the move with redis-cli --cluster fix"
            }
            "IOERR" => {
                "the nodes must reach each other by the addresses that they announce; finish the move with redis-cli --cluster fix"
            }
            "NOAUTH" | "WRONGPASS" => {
                "all nodes need the same user and password; finish the move with redis-cli --cluster fix"
            }
            "MOVED" | "ASK" => {
                "the new node does not import the slot: finish the move with redis-cli --cluster fix"
            }
            "OOM" => "the new node is full: give it memory",
            _ => "finish the move with redis-cli --cluster fix",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_their_cause() {
        for (error, kind) in [
            ("ERR Target instance replied with error: BUSYKEY Target key name already exists.", "BUSYKEY"),
            ("NOPERM User x has no permissions to run the 'migrate' command", "NOPERM"),
            ("ERR Target instance replied with error: NOPERM User x has no permissions", "NOPERM"),
            ("IOERR error or timeout connecting to the client", "IOERR"),
            ("ERR Target instance replied with error: MOVED 5 127.0.0.1:1", "MOVED"),
            ("ERR something new", "other"),
        ] {
            assert_eq!(Refusal::of(error).kind, kind, "{error}");
        }
    }

    #[test]
    fn batches_grow_while_they_are_quick() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        assert_eq!(next_size(BATCH_MIN, quick), 2 * BATCH_MIN);
        assert_eq!(next_size(BATCH_MAX, quick), BATCH_MAX);
        assert_eq!(next_size(BATCH_MIN, BATCH_TIME), BATCH_MIN);
        assert_eq!(next_size(BATCH_MIN, slow), BATCH_MIN / 2);
        assert_eq!(next_size(1, slow), 1);
    }
}
