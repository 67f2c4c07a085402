//! The tables of the figures, one for each operation, and the sentences about what is asked of the service.

use super::{Scenario, Way, named};
use crate::cql::Operation;
use crate::results::{Column, Table};
use crate::round::{Sample, load_columns, load_figures};

/// Share of the driver's throughput that is aimed at.
const THROUGHPUT: f64 = 0.8;
/// Multiple of the driver's throughput, or share of its CPU time the other way round, that is aimed at for a row that all ask for.
const HOT: f64 = 10.0;

/// Key of the column with the CPU time of the driver's program or the clone.
const PROGRAM: &str = "program_cpu_us";
/// Key of the column with the CPU time of all processes.
const ALL: &str = "all_cpu_us";
/// Key of the column with the throughput.
const CALLS: &str = "calls_per_second";

/// Returns a table for each operation.
pub(super) fn of(scenarios: &[Scenario], samples: &[Vec<Sample>]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for (scenario, samples) in scenarios.iter().zip(samples) {
        let title = scenario.operation.title();
        if tables.last().is_none_or(|table| table.title != title) {
            let mut columns = load_columns();
            columns.extend([
                Column::new(PROGRAM, "driver or clone CPU µs", 1).with_ratio(),
                Column::new("cassandra_cpu_us", "Cassandra CPU µs", 1).with_ratio(),
                Column::new("gateway_cpu_us", "gateway CPU µs", 1),
                Column::new(ALL, "all CPU µs", 1).with_ratio(),
            ]);
            tables.push(Table::new(title, columns));
        }
        let mut figures = load_figures(samples);
        let cpu = |n: usize| samples.iter().map(|sample| sample.cpu_us[n]).collect();
        figures.extend([cpu(0), cpu(1), cpu(2)]);
        // Without Cassandra's share it is no sum of all.
        let sum = |sample: &Sample| match scenario.way {
            Way::Gateway => sample.cpu_us.iter().sum(),
            Way::Driver | Way::Clone => sample.cpu_us[0] + sample.cpu_us[1],
            Way::Embedded => sample.cpu_us[0],
        };
        figures.push(samples.iter().map(sum).collect());
        if let Some(table) = tables.last_mut() {
            table.row(&scenario.name(), scenario.peer().as_deref(), figures);
        }
    }
    tables
}

/// Returns sentences that compare the clone with the driver at the most calls in flight.
pub(super) fn notes(tables: &[Table], in_flight: usize) -> Vec<String> {
    let row = named(Way::Clone, in_flight);
    let ratio = |operation: Operation, key: &str| {
        let table = tables.iter().find(|table| table.title == operation.title())?;
        table.cell(&row, key)?.ratio
    };
    let mut notes = Vec::new();
    for (operation, name) in [(Operation::Get, "Get"), (Operation::Mutate, "Mutate")] {
        let Some(calls) = ratio(operation, CALLS) else { continue };
        let reached = if calls >= THROUGHPUT { "reached" } else { "missed" };
        let cpu = ratio(operation, PROGRAM);
        let cpu =
            cpu.map(|cpu| format!(", and the clone {cpu:.2} times the CPU time of the driver's program"));
        notes.push(format!(
            "{name} with {in_flight} in flight has {:.0} % of the driver's throughput (aim: {:.0} %, {reached}){}.",
            100.0 * calls,
            100.0 * THROUGHPUT,
            cpu.unwrap_or_default()
        ));
    }
    if let Some(calls) = ratio(Operation::HotGet, CALLS) {
        let cpu = ratio(Operation::HotGet, ALL).map(|cpu| 1.0 / cpu);
        let reached = if calls.max(cpu.unwrap_or(0.0)) >= HOT { "reached" } else { "missed" };
        let cpu = cpu.map(|cpu| format!(" and a call costs {cpu:.0} times less CPU time in all"));
        notes.push(format!(
            "A row that all {in_flight} callers ask for is read {calls:.1} times as often as by the driver{} (aim: {HOT:.0} times one or the \
             other, {reached}).",
            cpu.unwrap_or_default()
        ));
    }
    notes.push(
        "The driver's program has no server: its CPU time is that of its callers and the driver. Callers of a clone are in the process \
         of the benchmark, whose CPU time is in no column."
            .to_owned(),
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(way: Way, per_second: f64, cpu_us: [f64; 3]) -> (Scenario, Vec<Sample>) {
        let sample = Sample { per_second, p50_us: 1.0, p99_us: 2.0, lost: 0, cpu_us: cpu_us.to_vec() };
        (Scenario { operation: Operation::Get, way, in_flight: 256 }, vec![sample])
    }

    fn tables(clone_per_second: f64) -> Vec<Table> {
        let all = [
            measured(Way::Driver, 100.0, [10.0, 90.0, f64::NAN]),
            measured(Way::Clone, clone_per_second, [20.0, 90.0, f64::NAN]),
            measured(Way::Gateway, 70.0, [20.0, 90.0, 5.0]),
            measured(Way::Embedded, 500.0, [15.0, f64::NAN, f64::NAN]),
        ];
        let (scenarios, samples): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        of(&scenarios, &samples)
    }

    #[test]
    fn all_processes_are_summed() {
        let tables = tables(80.0);
        let sum = |way| tables[0].cell(&named(way, 256), ALL).map(|cell| cell.median);
        assert_eq!([Way::Driver, Way::Clone, Way::Gateway].map(sum), [Some(100.0), Some(110.0), Some(115.0)]);
        assert_eq!(sum(Way::Embedded), Some(15.0));
    }

    #[test]
    fn notes_say_what_was_reached() {
        let note = |per_second| notes(&tables(per_second), 256)[0].clone();
        assert!(
            note(80.0).contains("80 % of the driver's throughput (aim: 80 %, reached)"),
            "{}",
            note(80.0)
        );
        assert!(note(79.0).contains("missed") && note(79.0).contains("2.00 times"), "{}", note(79.0));
    }
}
