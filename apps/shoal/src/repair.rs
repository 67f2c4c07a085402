//! `shoal repair`: what can be kept of a damaged embedded database, and the command that accepts the loss of the rest.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use shoal_embedded::{Repair, repair};

use crate::report;

const EXAMPLES: &str = "A start refuses a database that holds less than was answered for. Restore a copy of the directory if there is one. Without a
copy this command says what can still be read; with --accept-loss it puts that into a new database, which takes the place of
DIR, and keeps the damaged directory under another name beside it. No process may have DIR open. It needs as much room again.

Exit code: 0 nothing is wrong, or it is repaired; 1 an error; 3 damaged.

Examples:
  shoal repair .shoal/data
  shoal repair .shoal/data --accept-loss";

/// The exit code when the database is damaged and nothing was changed.
const DAMAGED: u8 = 3;

/// Say what can be kept of a damaged embedded database; keep that and give the rest up
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RepairArgs {
    /// Directory of one database, such as .shoal/data
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Keep what can be read and give up the rest
    #[arg(long)]
    accept_loss: bool,
}

pub(crate) async fn run(args: RepairArgs) -> std::process::ExitCode {
    match try_run(&args).await {
        Ok(Some(found)) if found.aside.is_none() => std::process::ExitCode::from(DAMAGED),
        Ok(_) => std::process::ExitCode::SUCCESS,
        Err(error) => report::failed(&error),
    }
}

async fn try_run(args: &RepairArgs) -> anyhow::Result<Option<Repair>> {
    let dir = args.dir.display();
    let found = repair(&args.dir, args.accept_loss).await.with_context(|| hint(args))?;
    match &found {
        None => report::line(format!("nothing is wrong with {dir}")),
        Some(found) => report::line(text(args, found)),
    }
    Ok(found)
}

/// Names the databases below a directory that is none.
fn hint(args: &RepairArgs) -> String {
    let below = std::fs::read_dir(&args.dir).into_iter().flatten().flatten();
    let databases = below.map(|entry| entry.path()).filter(|path| path.join("ledger").exists());
    let names: Vec<_> = databases.map(|path| path.display().to_string()).collect();
    if names.is_empty() {
        "nothing was changed".to_owned()
    } else {
        format!("name one database: {}", names.join(", "))
    }
}

fn text(args: &RepairArgs, found: &Repair) -> String {
    let dir = args.dir.display();
    let mut lines = vec![format!("{dir} is damaged: {}", found.problem)];
    lines.push(match found.acknowledged {
        Some(groups) => format!("{groups} groups of writes were answered for"),
        None => "how many writes were answered for is not known".to_owned(),
    });
    lines.push(if found.aside.is_some() { "kept:" } else { "what can be read:" }.to_owned());
    for kept in &found.kept {
        let torn = if kept.torn { ", without those in a damaged table" } else { "" };
        lines.push(format!("  {:12} {} pairs{torn}", kept.keyspace, kept.pairs));
    }
    for name in &found.missing {
        lines.push(format!("  {name:12} lost"));
    }
    lines.push(match &found.aside {
        Some(aside) => format!("{dir} is a new database of these; the damaged one is {}", aside.display()),
        None => format!(
            "nothing was changed: restore a copy of {dir}, or give up what is missing with `shoal repair {dir} --accept-loss`"
        ),
    });
    lines.join("\n")
}
