//! The upstreams for `/status` of the admin port: a short form of what GatewayService lists.

use serde_json::{Value, json};

use crate::routing::table::Table;
use crate::upstream::{Upstream, rank};

/// The upstreams by name.
pub(crate) fn upstreams(table: &Table) -> Value {
    let mut upstreams: Vec<&Upstream> = table.entries.iter().map(|entry| &*entry.upstream).collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    upstreams.into_iter().map(upstream).collect()
}

fn upstream(upstream: &Upstream) -> Value {
    let mut endpoints = std::collections::BTreeMap::new();
    for seen in upstream.workers().iter().flat_map(|state| state.balancer.snapshot()) {
        let better = endpoints
            .get(&seen.address)
            .is_none_or(|known: &shoal_balance::EndpointSnapshot| rank(seen.state) > rank(known.state));
        if better {
            endpoints.insert(seen.address, seen);
        }
    }
    let endpoints: Vec<Value> = endpoints
        .values()
        .map(|seen| {
            json!({
                "address": seen.address.to_string(),
                "state": seen.state.to_string(),
                "reason": seen.reason,
                "engine": seen.backing.engine,
                "store": seen.backing.store,
            })
        })
        .collect();
    let ready = upstream.ready();
    json!({
        "name": upstream.name,
        "is_role": upstream.role.is_some(),
        "takes_calls": ready > 0,
        "ready_endpoints": ready,
        "why": if ready > 0 { String::new() } else { upstream.unready_because() },
        "endpoints": endpoints,
    })
}
