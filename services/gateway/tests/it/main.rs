//! The gateway between real sockets: scripted and tonic upstreams behind it, raw and tonic callers in front of it.

mod blame;
mod costs;
mod deadline;
mod drain;
mod floods;
mod forward;
mod harness;
mod heads;
mod health;
mod hedge;
mod lifetime;
mod limits;
mod lists;
mod peers;
mod protocol;
mod reflection;
mod reset;
mod retry;
mod routes;
mod slow;
mod spread;
mod stages;
mod stalled;
mod streams;
mod upstreams;
mod window;
