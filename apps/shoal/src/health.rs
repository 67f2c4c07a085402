//! `shoal health`: one health check, for containers and scripts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use shoal_top::dial;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::report;

/// A check that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "Prints SERVING or NOT_SERVING; an error goes to stderr.
Exit code: 0 serving, 1 not serving, 2 an error, such as no answer within 2 s or an unknown service.

Examples:
  shoal health
  shoal health --addr 127.0.0.1:7101 --service shoal.session.v1.SessionService";

/// Ask a gateway or a clone whether it serves; the exit code tells.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HealthArgs {
    /// Address of a gateway or a clone
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    addr: String,
    /// Full name of a service, such as shoal.session.v1.SessionService  [default: the whole server]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
}

pub(crate) async fn run(args: HealthArgs) -> ExitCode {
    let checked = tokio::time::timeout(WITHIN, check(&args)).await;
    match checked {
        Ok(Ok(ServingStatus::Serving)) => {
            report::line("SERVING");
            ExitCode::SUCCESS
        }
        Ok(Ok(status)) => {
            report::line(status.as_str_name());
            ExitCode::from(1)
        }
        Ok(Err(error)) => {
            report::failed(&error);
            ExitCode::from(2)
        }
        Err(_) => {
            report::failed(&anyhow::anyhow!(
                "{} did not answer within {WITHIN:?}: something listens there and is stuck, or is no gRPC server, or a \
                 firewall is in between",
                args.addr
            ));
            ExitCode::from(2)
        }
    }
}

async fn check(args: &HealthArgs) -> anyhow::Result<ServingStatus> {
    let channel = dial::connect(&args.addr, WITHIN).await?;
    let request = HealthCheckRequest { service: args.service.clone() };
    match HealthClient::new(channel.clone()).check(request).await {
        Ok(response) => Ok(response.into_inner().status()),
        Err(status) if status.code() == Code::NotFound => {
            let known = services(channel).await.map_or_else(
                |_| "; it does not say which it has".to_owned(),
                |known| format!("; it has: {}", known.join(", ")),
            );
            anyhow::bail!("{} does not know a service `{}`{known}", args.addr, args.service)
        }
        Err(status) => Err(dial::explain(&args.addr, "grpc.health.v1.Health", &status).await),
    }
}

/// The services a server has, if its reflection says them.
async fn services(channel: Channel) -> Result<Vec<String>, Status> {
    let question = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    // Held open until the answer is here.
    let questions = futures::stream::once(std::future::ready(question)).chain(futures::stream::pending());
    let mut answers =
        ServerReflectionClient::new(channel).server_reflection_info(questions).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        _ => Err(Status::unimplemented("no list")),
    }
}
