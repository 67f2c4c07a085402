//! `shoal data`: the tables and rows of a data service from the command line.
//!
//! Everything goes through the service's own calls, to a gateway or to a clone; nothing reads an engine.

mod args;
mod blob;
mod checkpoint;
mod connection;
mod export;
mod file;
mod import;
mod json;
mod key;
mod lint;
mod output;
mod progress;
mod put;
mod read;
mod retry;
mod scan;
mod typed;
mod verify;

use clap::Subcommand;

/// Read and write the tables of a data service.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the tables, or show one
    #[command(after_help = args::TABLES_EXAMPLES)]
    Tables(args::TablesArgs),
    /// Show one row
    #[command(after_help = args::GET_EXAMPLES)]
    Get(args::GetArgs),
    /// Show the rows of a partition
    #[command(after_help = args::QUERY_EXAMPLES)]
    Query(args::QueryArgs),
    /// Write one row, replacing the row that was there
    #[command(after_help = args::PUT_EXAMPLES)]
    Put(args::PutArgs),
    /// Write the rows of a table to a file
    #[command(after_help = args::EXPORT_EXAMPLES)]
    Export(args::ExportArgs),
    /// Write the rows of an exported file to a table
    #[command(after_help = args::IMPORT_EXAMPLES)]
    Import(args::ImportArgs),
    /// Say which partitions and rows of a table will cause trouble
    #[command(after_help = args::LINT_EXAMPLES)]
    Lint(args::LintArgs),
}

/// Runs one command.
///
/// # Errors
/// When the server cannot be reached or refuses; the error says what to do.
pub async fn run(command: DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::Tables(args) => read::tables(args).await,
        DataCommand::Get(args) => read::get(args).await,
        DataCommand::Query(args) => read::query(args).await,
        DataCommand::Put(args) => put::run(args).await,
        DataCommand::Export(args) => export::run(args).await,
        DataCommand::Import(args) => import::run(args).await,
        DataCommand::Lint(args) => lint::run(args).await,
    }
}
