//! A call at one endpoint: the pick it is sent by, the judgement at its end, and its bodies.

pub(crate) mod accounting;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod pick;
pub(crate) mod timeout;
pub(crate) mod trace;
