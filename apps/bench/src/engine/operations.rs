//! Cost of each operation in Redis.

use std::sync::Arc;

use tonic::Status;

use super::CLAIM;
use super::clients::Clients;
use super::meter::Meter;

/// The value of a bare SET, as large as a session.
const FLOOR_BYTES: usize = 150;

/// The peers: commands on one connection, without a service.
pub(super) const BARE_SET: &str = "a bare SET";
/// The peer of what only reads.
pub(super) const BARE_GET: &str = "a bare GET";

/// Operations that only read.
pub(super) const READS: [&str; 3] = [GET_SESSION, GET_HIT, GET_OBJECT_HIT];
const GET_SESSION: &str = "GetSession";
const GET_HIT: &str = "Get, a hit";
const GET_OBJECT_HIT: &str = "GetObject, a hit";

/// Keys that are removed with one command.
const UNLINKED_AT_ONCE: usize = 1_000;

/// Measures a bare SET and GET on one connection under the same load: the part of each figure that is system calls, and
/// cold caches where little is in flight.
async fn floor(meter: &mut Meter) -> anyhow::Result<()> {
    let commands = |name: &'static str| {
        let redis = meter.redis.clone();
        move |n: usize| {
            let mut redis = redis.clone();
            async move {
                let mut command = redis::cmd(name);
                command.arg(format!("floor:{n}"));
                if name == "SET" {
                    command.arg(&[7_u8; FLOOR_BYTES][..]).arg("PX").arg(60_000);
                }
                let sent = command.query_async::<redis::Value>(&mut redis).await;
                sent.map(drop).map_err(|error| Status::internal(error.to_string()))
            }
        }
    };
    let (set, get) = (commands("SET"), commands("GET"));
    meter.cost(BARE_SET, meter.calls, set).await?;
    meter.cost(BARE_GET, meter.calls, get).await?;
    // Not left to expire, which would be counted as a cost of what is measured then.
    let keys: Vec<String> = (0..meter.calls).map(|n| format!("floor:{n}")).collect();
    for keys in keys.chunks(UNLINKED_AT_ONCE) {
        let () = redis::cmd("UNLINK").arg(keys).query_async(&mut meter.redis).await?;
    }
    Ok(())
}

/// Measures the peers and every operation of session, jobs and cache, once. Each round has objects of its own.
pub(super) async fn all(meter: &mut Meter, clients: &Clients, round: u32) -> anyhow::Result<()> {
    floor(meter).await?;
    let count = meter.calls;
    let create = clients.call(move |of, n| of.create(format!("u{round}.{n}"), &["plan"]));
    let tokens = Arc::new(meter.cost("CreateSession", count, create).await?);
    let token = |tokens: &Arc<Vec<String>>| {
        let tokens = Arc::clone(tokens);
        move |n: usize| tokens[n].clone()
    };
    let of = token(&tokens);
    meter.cost(GET_SESSION, count, clients.call(move |to, n| to.get_session(of(n)))).await?;
    let of = token(&tokens);
    let update = clients.call(move |to, n| to.update_session(of(n)));
    meter.cost("UpdateSession, one attribute", count, update).await?;
    let of = token(&tokens);
    meter.cost("RevokeSession", count, clients.call(move |to, n| to.revoke_session(of(n)))).await?;
    let enqueue = clients.call(move |to, _| to.enqueue(format!("q{round}"), String::new()));
    meter.cost("Enqueue", count, enqueue).await?;
    let singles = count / 10;
    meter
        .cost(
            "LeaseJobs of 1, CompleteJob",
            singles,
            clients.call(move |to, _| to.work(format!("q{round}"), 1)),
        )
        .await?;
    let batches = (count - singles) / CLAIM;
    let work = clients.call(move |to, _| to.work(format!("q{round}"), CLAIM as i32));
    meter.cost("LeaseJobs of 32, 32 CompleteJob", batches, work).await?;
    let key = move |n: usize| format!("{round}.{n}");
    meter.cost("Set", count, clients.call(move |to, n| to.set("n", key(n)))).await?;
    meter.cost(GET_HIT, count, clients.call(move |to, n| to.get(key(n)))).await?;
    meter.cost("GetObject, a load", count, clients.call(move |to, n| to.get_object(key(n)))).await?;
    meter.cost(GET_OBJECT_HIT, count, clients.call(move |to, n| to.get_object(key(n)))).await?;
    Ok(())
}
