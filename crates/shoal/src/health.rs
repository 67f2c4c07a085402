//! `shoal health`: one health check, for containers and scripts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::report;

/// A check that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(2);

const EXAMPLES: &str =
    "Exit code: 0 serving, 1 not serving, 2 no answer within 2 s or an error, such as an unknown service.

Examples:
  shoal health
  shoal health --addr 127.0.0.1:7101 --service shoal.session.v1.SessionService";

/// Ask for health.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HealthArgs {
    /// Address of a gateway or a clone
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    addr: String,
    /// A service's full name; none: the whole server
    #[arg(long, value_name = "NAME", default_value = "")]
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
            report::failed(&anyhow::anyhow!("{} did not answer within {WITHIN:?}", args.addr));
            ExitCode::from(2)
        }
    }
}

async fn check(args: &HealthArgs) -> anyhow::Result<ServingStatus> {
    let channel = Endpoint::from_shared(format!("http://{}", args.addr))?
        .connect()
        .await
        .map_err(|error| anyhow::anyhow!("cannot connect to {}: {error}", args.addr))?;
    let request = HealthCheckRequest { service: args.service.clone() };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => Ok(response.into_inner().status()),
        Err(status) if status.code() == tonic::Code::NotFound => {
            anyhow::bail!("{} does not know a service `{}`", args.addr, args.service)
        }
        Err(status) => anyhow::bail!("{}: {}", args.addr, status.message()),
    }
}
