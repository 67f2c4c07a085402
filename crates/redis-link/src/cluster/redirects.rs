//! The redirects of one call in a Cluster: which of them it follows, and when it waits instead.

use std::sync::Arc;

use redis::Value;
use tokio::time::Instant;

use super::{Redirect, Shared, transfer};
use crate::cluster::slot_move::Wait;
use crate::error::LinkError;
use crate::node::Node;

/// The number of redirects that a call follows before it waits: while slots move, one or two are usual.
const REDIRECTS_MAX: usize = 5;

/// A call and the redirects it has followed.
pub(super) struct Redirects<'a> {
    shared: &'a Arc<Shared>,
    slot: Option<u16>,
    /// Set if Redis knows all keys that the call touches.
    declares_all: bool,
    pub(super) node: Arc<Node>,
    pub(super) asking: bool,
    redirects: usize,
    pub(super) wait: Wait,
}

impl<'a> Redirects<'a> {
    pub(super) async fn new(
        shared: &'a Arc<Shared>,
        slot: Option<u16>,
        declares_all: bool,
        deadline: Instant,
    ) -> Result<Redirects<'a>, LinkError> {
        let node = shared.owner(slot, deadline).await?;
        Ok(Redirects {
            shared,
            slot,
            declares_all,
            node,
            asking: false,
            redirects: 0,
            wait: Wait::new(deadline),
        })
    }

    /// Goes where a redirect points, or waits before the call tries again. The call was not done so far. `absent` names a key
    /// of the slot that never exists.
    pub(super) async fn turn(
        &mut self,
        redirect: Redirect,
        absent: impl Fn() -> Option<Vec<u8>>,
    ) -> Result<(), LinkError> {
        self.redirects += 1;
        let asked = std::mem::replace(&mut self.asking, false);
        match redirect {
            Redirect::Moved(slot, _) if self.slot.is_some_and(|own| own != slot) => {
                let message = "the keys of one call have several slots".to_owned();
                return Err(LinkError::Server { code: "CROSSSLOT".to_owned(), message });
            }
            Redirect::Moved(slot, endpoint) => {
                self.node = self.shared.moved(slot, &endpoint);
                if !asked && self.redirects <= REDIRECTS_MAX {
                    return Ok(());
                }
            }
            Redirect::Ask(endpoint) if !asked && (self.declares_all || self.emptied().await) => {
                self.node = self.shared.node(&endpoint);
                self.asking = true;
                return Ok(());
            }
            Redirect::Ask(_) | Redirect::TryAgain => self.carry_keys(asked, absent()).await?,
        }
        let slot = self.slot.unwrap_or_default();
        self.wait.pause(&self.shared.moves, slot, self.shared.settings.role).await?;
        self.redirects = 0;
        self.node = self.shared.owner(self.slot, self.wait.deadline).await?;
        Ok(())
    }

    /// Starts to carry the keys of a half-moved slot to its new node, as [`transfer`] says.
    async fn carry_keys(&self, asked: bool, absent: Option<Vec<u8>>) -> Result<(), LinkError> {
        if let (true, Some(slot), Some(absent)) = (self.shared.settings.finish_moves, self.slot, absent) {
            let source = match asked {
                true => self.shared.owner(Some(slot), self.wait.deadline).await?,
                false => Arc::clone(&self.node),
            };
            transfer::start(self.shared, source, slot, absent);
        }
        Ok(())
    }

    /// Returns whether the node that gives the slot away has no key of the slot left. Then all keys are on the other node and
    /// none comes back, because the first node answers ASK for a key that it does not have.
    async fn emptied(&self) -> bool {
        let Some(slot) = self.slot else { return false };
        let mut count = redis::cmd("CLUSTER");
        count.arg("COUNTKEYSINSLOT").arg(slot);
        matches!(self.node.command(&count, self.wait.deadline).await, Ok(Value::Int(0)))
    }
}
