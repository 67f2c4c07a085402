//! Asks a gateway, once or again and again.

use std::time::Duration;

use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{ListUpstreamsRequest, Upstream, WatchUpstreamsRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::dial;

/// Timeout of connecting to a gateway, and of its answer.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);

/// After a watch has ended, before the next: a gateway that restarts is back soon.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Failed attempts after which an address is given up from which no update has come.
const TRIES: usize = 3;

/// Result of asking a gateway.
pub(crate) type Update = Result<Vec<Upstream>, String>;

/// A client of the gateway at an address.
async fn connect(addr: &str) -> anyhow::Result<GatewayServiceClient<Channel>> {
    Ok(GatewayServiceClient::new(dial::connect(addr, WITHIN).await?))
}

/// Why a gateway that was connected to could not be asked.
async fn refused(addr: &str, status: &Status) -> anyhow::Error {
    dial::explain(addr, "shoal.gateway.v1.GatewayService, which only a gateway has", status).await
}

/// The upstreams now.
pub(crate) async fn list(
    addr: &str,
    client: &mut GatewayServiceClient<Channel>,
) -> anyhow::Result<Vec<Upstream>> {
    let answer = timeout(WITHIN, client.list_upstreams(ListUpstreamsRequest {})).await;
    match answer.map_err(|_| anyhow::anyhow!("{addr} did not answer within {WITHIN:?}"))? {
        Ok(answer) => Ok(answer.into_inner().upstreams),
        Err(status) => Err(refused(addr, &status).await),
    }
}

/// Tells `to` of the upstreams as they change, and of what keeps it from being told, until nobody listens. Tries again
/// `again_after` a failure.
///
/// # Errors
/// When the first [`TRIES`] have told of nothing: the address is wrong. A gateway that was there once is waited for.
pub(crate) async fn follow(
    addr: &str,
    interval: Duration,
    again_after: Duration,
    to: mpsc::Sender<Update>,
) -> anyhow::Result<()> {
    let (mut told, mut failed) = (false, 0);
    loop {
        let ended = match watch(addr, interval, &to, &mut told).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        failed += 1;
        if !told && failed == TRIES {
            return Err(ended);
        }
        if to.send(Err(format!("{ended:#}"))).await.is_err() {
            return Ok(());
        }
        sleep(again_after).await;
    }
}

async fn watch(
    addr: &str,
    interval: Duration,
    to: &mpsc::Sender<Update>,
    told: &mut bool,
) -> anyhow::Result<()> {
    let mut client = connect(addr).await?;
    let request = WatchUpstreamsRequest { interval: prost_types::Duration::try_from(interval).ok() };
    let mut stream = match client.watch_upstreams(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return Err(refused(addr, &status).await),
    };
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                *told = true;
                if to.send(Ok(response.upstreams)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => anyhow::bail!("the gateway ended the watch"),
            Err(status) => anyhow::bail!("{}", status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, BoxStream};
    use shoal_proto::gateway::v1::gateway_service_server::{GatewayService, GatewayServiceServer};
    use shoal_proto::gateway::v1::{ListUpstreamsResponse, WatchUpstreamsResponse};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response};

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(10);

    /// A gateway with nothing behind it, whose watches end at once.
    struct Empty;

    #[tonic::async_trait]
    impl GatewayService for Empty {
        async fn list_upstreams(
            &self,
            _: Request<ListUpstreamsRequest>,
        ) -> Result<Response<ListUpstreamsResponse>, Status> {
            Ok(Response::new(ListUpstreamsResponse::default()))
        }

        type WatchUpstreamsStream = BoxStream<'static, Result<WatchUpstreamsResponse, Status>>;

        async fn watch_upstreams(
            &self,
            _: Request<WatchUpstreamsRequest>,
        ) -> Result<Response<Self::WatchUpstreamsStream>, Status> {
            let one = stream::iter([Ok(WatchUpstreamsResponse::default())]);
            Ok(Response::new(Box::pin(one)))
        }
    }

    #[tokio::test]
    async fn dead_address_is_given_up() {
        let (to, mut updates) = mpsc::channel(TRIES);
        let following = follow("127.0.0.1:1", INTERVAL, SHORT, to);
        let ended = timeout(Duration::from_secs(20), following).await.expect("given up");
        let error = ended.expect_err("nobody is there").to_string();
        assert!(error.contains("127.0.0.1:1") && error.contains("refused"), "{error}");
        for _ in 1..TRIES {
            updates.recv().await.expect("told meanwhile").expect_err("nobody is there");
        }
        assert!(updates.recv().await.is_none());
    }

    #[tokio::test]
    async fn lost_gateway_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let server = tonic::transport::Server::builder()
            .add_service(GatewayServiceServer::new(Empty))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);
        let (to, mut updates) = mpsc::channel(1);
        let following = tokio::spawn(async move { follow(&address, INTERVAL, SHORT, to).await });
        updates.recv().await.expect("an update").expect("it is there");
        server.abort();
        let mut failed = 0;
        while failed <= TRIES * 2 {
            match updates.recv().await.expect("it goes on") {
                Ok(_) => failed = 0,
                Err(_) => failed += 1,
            }
        }
        drop(updates);
        following.await.expect("no panic").expect("it ends when nobody listens");
    }
}
