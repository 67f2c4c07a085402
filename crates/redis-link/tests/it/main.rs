//! The promises of the link, against real Redis servers that the tests start, stop, freeze and cut off.
#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helper functions"
)]

mod basics;
mod cluster;
mod failover;
mod load;
mod moving;
mod outage;
mod pause;
mod proxy;
mod refusals;
mod scripts;
mod sentinel;
mod server;
mod stalls;
mod store_name;
mod subscription;
mod tail;
mod telemetry;
mod transfer;
