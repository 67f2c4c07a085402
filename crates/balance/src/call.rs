//! One call at one endpoint: the pick it is sent by, what its end says of the endpoint, and its bodies.

pub(crate) mod accounting;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod pick;
pub(crate) mod timeout;
pub(crate) mod trace;
