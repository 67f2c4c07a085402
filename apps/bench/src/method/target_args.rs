//! Flags that say what is loaded and how: the servers, the calls, and the shape of the load.

use std::sync::Arc;

use clap::Args;

use super::{CallArgs, addresses, try_once};
use crate::load::arrivals::Arrivals;
use crate::load::level::{Demand, Level, OUTSTANDING_MAX, SEED};
use crate::load::target::Target;

/// Flags of a load on any gRPC service.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Server to call, host:port, by HTTP/2 without TLS. Several, separated by commas, are called alike
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub(crate) target: Vec<String>,
    #[command(flatten)]
    pub(crate) calls: CallArgs,
    /// Status code other than OK that is a good answer, such as NOT_FOUND. May be repeated
    #[arg(long, value_name = "CODE", value_parser = code)]
    pub(crate) accept: Vec<u16>,
    /// Connections in all, spread over the servers
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) connections: u16,
    /// Arrivals of the calls of an open loop
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub(crate) arrivals: Arrivals,
    /// Seed of the arrivals and of the placeholders: the same seed makes the same calls
    #[arg(long, default_value_t = SEED)]
    pub(crate) seed: u64,
    /// Calls that may be outstanding; those due beyond it are not made, and counted
    #[arg(long, value_name = "CALLS", default_value_t = OUTSTANDING_MAX, value_parser = outstanding)]
    pub(crate) outstanding_max: usize,
    /// Process of the target on this machine whose CPU time is measured, with its children. May be repeated
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Vec<u32>,
}

/// Most calls that may be outstanding: each holds some kilobytes.
const OUTSTANDING_LIMIT: usize = 1_000_000;

fn outstanding(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(calls) if (1..=OUTSTANDING_LIMIT).contains(&calls) => Ok(calls),
        _ => Err(format!("not a number of calls from 1 to {OUTSTANDING_LIMIT}")),
    }
}

fn code(text: &str) -> Result<u16, String> {
    shoal_grpc_code::of_name(text)
        .ok_or_else(|| "not the name of a gRPC status code, such as NOT_FOUND".to_owned())
}

impl TargetArgs {
    /// Looks the servers and their methods up, and calls each once.
    ///
    /// # Errors
    /// When a server is not there, a flag names what does not exist, or a first call fails.
    pub(crate) async fn target(&self) -> anyhow::Result<Target> {
        anyhow::ensure!(!self.target.is_empty(), "say whom to call: --target HOST:PORT");
        anyhow::ensure!(
            !self.calls.methods.is_empty(),
            "say what to call: --method package.Service/Method (grpcurl -plaintext {} list shows what there is)",
            self.target[0]
        );
        let addresses = addresses(&self.target).await?;
        let workload = self.calls.workload(&addresses[0].to_string(), self.seed).await?;
        let target = Target {
            addresses,
            connections: usize::from(self.connections),
            workload: Arc::new(workload),
            pids: self.pid.clone(),
            accepted: self.accept.clone(),
        };
        try_once(&target, self.seed).await?;
        Ok(target)
    }

    /// Returns a level with these flags' arrivals, seed and bounds; `nth` levels of one seed make different calls.
    pub(crate) fn shaped(&self, level: Level, nth: u64) -> Level {
        let demand = match level.demand {
            Demand::Open { per_second, .. } => Demand::Open { per_second, arrivals: self.arrivals },
            closed @ Demand::Closed { .. } => closed,
        };
        Level { demand, seed: self.seed.wrapping_add(nth), outstanding_max: self.outstanding_max, ..level }
    }

    /// Returns the methods as a report names them: with their weights, if there are several.
    pub(crate) fn named(&self) -> Vec<String> {
        let methods = &self.calls.methods;
        let name = |method: &super::flags::MethodFlag| match methods.len() {
            1 => method.name.clone(),
            _ => format!("{} = {}", method.name, method.weight),
        };
        methods.iter().map(name).collect()
    }
}
