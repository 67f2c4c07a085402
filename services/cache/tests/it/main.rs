//! The cache as its callers meet it: over gRPC, with real loaders beside it.

mod entries;
mod harness;
mod leases;
mod loaders;
mod outage;
mod refusals;
mod rows;
mod staleness;
