//! The integration tests: one binary, real processes, real sockets, real engines.
//!
//! `scripts/test` provides the engines and names them in `SHOAL_TEST_*` variables. Without them a test that needs one says so
//! and passes, unless `SHOAL_TEST_REQUIRE=1`.

mod harness;

mod access_log;
mod bad_input;
mod bench;
mod benchmarks;
mod clones;
mod configuration;
mod contract;
mod data_command;
mod data_export;
mod faults;
mod fidelity;
mod foreign_rows;
mod frozen;
mod full_disk;
mod h2spec;
mod histories;
mod idle;
mod killed_streams;
mod memory;
mod metrics;
mod read_path;
mod readme;
mod repeated_writes;
mod rolling;
mod rolling_restart;
mod scan;
mod serve;
mod sessions;
mod settings;
mod slow_peers;
mod stampede;
mod stores;
mod tidy;
mod top;
mod trace;
mod up;
mod watch;
