//! The way of a call: its headers, its attempts, the bodies in both directions, and the gateway's own replies.
//!
//! No message is decoded here.

pub(crate) mod attempt;
pub(crate) mod attempt_end;
pub(crate) mod call;
pub(crate) mod call_end;
pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod downstream;
pub(crate) mod in_flight;
pub(crate) mod local;
pub(crate) mod local_reply;
pub(crate) mod message_framing;
pub(crate) mod replay;
pub(crate) mod replay_buffer;
pub(crate) mod request_body;
pub(crate) mod request_head;
pub(crate) mod response_body;
pub(crate) mod sending;
pub(crate) mod span;
pub(crate) mod upstream_stream;
