//! Cost of each operation in Redis.

use std::sync::Arc;

use tonic::Status;

use super::CLAIM;
use super::clients::Clients;
use super::meter::Meter;

/// The value of a bare SET, as large as a session.
const FLOOR_BYTES: usize = 150;

/// Measures a bare SET and GET on one connection under the same load: the part of each figure that is system calls, and
/// cold caches where little is in flight.
pub(super) async fn floor(meter: &mut Meter) -> anyhow::Result<()> {
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
    meter.cost("a bare SET", meter.calls, set).await?;
    meter.cost("a bare GET", meter.calls, get).await?;
    meter.empty().await
}

/// Measures every operation of session, jobs and cache.
pub(super) async fn all(meter: &mut Meter, clients: &Clients) -> anyhow::Result<()> {
    let count = meter.calls;
    let create = clients.call(|of, n| of.create(format!("u{n}"), &["plan"]));
    let tokens = Arc::new(meter.cost("CreateSession", count, create).await?);
    let token = |tokens: &Arc<Vec<String>>| {
        let tokens = Arc::clone(tokens);
        move |n: usize| tokens[n].clone()
    };
    let of = token(&tokens);
    meter.cost("GetSession", count, clients.call(move |to, n| to.get_session(of(n)))).await?;
    let of = token(&tokens);
    let update = clients.call(move |to, n| to.update_session(of(n)));
    meter.cost("UpdateSession, one attribute", count, update).await?;
    let of = token(&tokens);
    meter.cost("RevokeSession", count, clients.call(move |to, n| to.revoke_session(of(n)))).await?;
    meter.cost("Enqueue", count, clients.call(|to, _| to.enqueue("q", String::new()))).await?;
    let singles = count / 10;
    meter.cost("LeaseJobs of 1, CompleteJob", singles, clients.call(|to, _| to.work("q", 1))).await?;
    let batches = (count - singles) / CLAIM;
    let work = clients.call(|to, _| to.work("q", CLAIM as i32));
    meter.cost("LeaseJobs of 32, 32 CompleteJob", batches, work).await?;
    meter.cost("Set", count, clients.call(|to, n| to.set("n", format!("k{n}")))).await?;
    meter.cost("Get, a hit", count, clients.call(|to, n| to.get(format!("k{n}")))).await?;
    meter.cost("GetObject, a load", count, clients.call(Clients::get_object)).await?;
    meter.cost("GetObject, a hit", count, clients.call(Clients::get_object)).await?;
    Ok(())
}
