//! Asks a gateway, once or again and again.

use std::time::Duration;

use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{ListUpstreamsRequest, Upstream, WatchUpstreamsRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// How long a gateway may take to be connected to, and to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// After a watch has ended, before the next: a gateway that restarts is back soon.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What came of asking.
pub(crate) type Update = Result<Vec<Upstream>, String>;

/// A client of the gateway at an address.
pub(crate) async fn connect(addr: &str) -> anyhow::Result<GatewayServiceClient<Channel>> {
    // A gateway that is gone without a word is missed, not taken for idle.
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(WITHIN)
        .http2_keep_alive_interval(WITHIN)
        .keep_alive_timeout(WITHIN);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| anyhow::anyhow!("cannot connect to {addr}: {}", causes(&error)))?;
    Ok(GatewayServiceClient::new(channel))
}

/// The upstreams now.
pub(crate) async fn list(client: &mut GatewayServiceClient<Channel>) -> anyhow::Result<Vec<Upstream>> {
    let answer = timeout(WITHIN, client.list_upstreams(ListUpstreamsRequest {})).await;
    let answer = answer.map_err(|_| anyhow::anyhow!("the gateway did not answer within {WITHIN:?}"))?;
    Ok(answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner().upstreams)
}

/// Tells `to` of the upstreams as they change, and of what keeps it from being told, until nobody listens.
pub(crate) async fn follow(addr: &str, interval: Duration, to: mpsc::Sender<Update>) {
    loop {
        let ended = match watch(addr, interval, &to).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if to.send(Err(format!("{ended:#}"))).await.is_err() {
            return;
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn watch(addr: &str, interval: Duration, to: &mpsc::Sender<Update>) -> anyhow::Result<()> {
    let mut client = connect(addr).await?;
    let request = WatchUpstreamsRequest { interval: prost_types::Duration::try_from(interval).ok() };
    let stream =
        client.watch_upstreams(request).await.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let mut stream = stream.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                if to.send(Ok(response.upstreams)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => anyhow::bail!("the gateway ended the watch"),
            Err(status) => anyhow::bail!("{}", status.message()),
        }
    }
}

/// tonic says only "transport error" of what went wrong.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
