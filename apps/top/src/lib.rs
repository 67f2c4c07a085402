//! `shoal top`: what a gateway sees of every clone behind it, live in the terminal or once as text. Asks
//! `shoal.gateway.v1.GatewayService`, and the jobs service behind it for the depth of its queues; knows nothing else of the
//! mesh. `dial` connects the other commands that ask a server too.

mod args;
pub mod dial;
mod fit;
mod help;
mod keys;
mod once;
mod queues;
mod row;
mod screen;
mod view;
mod watch;

use std::io::IsTerminal as _;

pub use args::TopArgs;

/// Shows it: live when somebody looks on, else once.
///
/// # Errors
/// When the gateway cannot be asked at the start, or the terminal cannot be drawn on.
pub async fn run(args: TopArgs) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !terminal {
        return once::run(&args).await;
    }
    let drawn = screen::run(&args, &mut ratatui::try_init()?).await;
    ratatui::restore();
    drawn
}
