//! `shoal serve ROLE`: one clone in one process.

use clap::Args;
use shoal_kit::cli::{CommonArgs, run_one, serve_defaults};
use shoal_kit::role::Role;
use shoal_kit::{Service, Settings};

const EXAMPLES: &str = "Every role but the gateway needs its engine named: --redis or --cassandra for the store that all clones of the role share, or \
--data or --ephemeral for a store of this process alone. A gateway needs --peer, or upstreams in the file.

Examples:
  shoal serve data --cassandra 127.0.0.1:9042 --listen 127.0.0.1:7301 --admin 127.0.0.1:7401
  shoal serve cache --redis redis://127.0.0.1:6379 --peer data=127.0.0.1:7301,127.0.0.1:7302
  shoal serve jobs --data ./jobs                  one clone alone, which keeps its jobs in that folder
  shoal serve gateway --peer 'session=dns:session:7000;cache=dns:cache:7000;data=dns:data:7000;jobs=dns:jobs:7000'";

/// Run one clone of one role in this process.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Role of the clone
    #[arg(value_enum)]
    role: Role,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::load_one(&args.common, serve_defaults())?;
    match args.role {
        Role::Gateway => shoal_gateway::run_process(settings).await,
        role => run_one(role, settings, |settings| clone_of(role, settings)).await,
    }
}

/// Builds a clone with an engine of its own.
async fn clone_of(role: Role, settings: Settings) -> anyhow::Result<Service> {
    let name = settings.clone_name();
    macro_rules! clone {
        ($service:ident) => {
            $service::service(&settings, $service::Engine::open(&settings).await?, name).await
        };
    }
    match role {
        Role::Session => clone!(shoal_session),
        Role::Cache => clone!(shoal_cache),
        Role::Data => clone!(shoal_data),
        Role::Jobs => clone!(shoal_jobs),
        Role::Gateway => anyhow::bail!("a gateway has no engine"),
    }
}
