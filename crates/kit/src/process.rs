//! The life of a process: its signals, its limits, its admin port, the run of one clone, and its exit code.

pub mod admin;
pub mod cli;
pub mod exit;
mod figures;
pub mod open_files;
pub mod shutdown;
