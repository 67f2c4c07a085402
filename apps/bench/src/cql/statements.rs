//! The statements of each operation, as the data service prepares them: docs/data.md has the layout of its tables.

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use super::operation::{
    CONDITIONAL, CONDITIONAL_PARTITIONS, Operation, PARTITION_ROWS, ROWS, WRITES, draw_page, draw_row,
    partition,
};

/// Place of a write in a conditional table: a byte and the hash of its token.
const REMEMBERED_BYTES: usize = 17;
/// Seconds for which a conditional write is remembered.
const REMEMBERED_SECONDS: i32 = 70 * 60;

/// An operation with its statements.
pub(super) struct Caller {
    session: Session,
    operation: Operation,
    /// The statement that is sent first, or the only one.
    first: PreparedStatement,
    /// The batch of a conditional write.
    batch: Batch,
    /// A row as the service stores it.
    cell: Vec<u8>,
}

impl Caller {
    /// Prepares what an operation needs.
    ///
    /// # Errors
    /// When the service never prepared one of the statements: then it does something else, and nothing is compared.
    pub(super) async fn prepare(
        session: Session,
        keyspace: &str,
        operation: Operation,
    ) -> anyhow::Result<Caller> {
        let texts = texts(keyspace, operation);
        check(&session, &texts).await?;
        let cell = a_cell(&session, keyspace).await?;
        let mut prepared = Vec::new();
        for text in texts {
            prepared.push(session.prepare(text).await?);
        }
        let mut statements = prepared.into_iter();
        let mut first = statements.next().context("a statement")?;
        first.set_consistency(match operation {
            Operation::CheckAndMutate => Consistency::LocalSerial,
            _ => Consistency::LocalQuorum,
        });
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_consistency(Consistency::LocalQuorum);
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        statements.for_each(|statement| batch.append_statement(statement));
        Ok(Caller { session, operation, first, batch, cell })
    }

    /// Does the operation once, and reads what comes back.
    pub(super) async fn call(&self, rng: &mut Rng) -> anyhow::Result<()> {
        match self.operation {
            Operation::Get | Operation::HotGet => {
                let values = draw_row(self.operation, rng);
                let rows = self.session.execute_unpaged(&self.first, values).await?.into_rows_result()?;
                let row: (Option<&[u8]>, Option<i64>) = rows.first_row()?;
                black_box(row);
            }
            Operation::Query10 | Operation::Query100 => {
                let (partition, start, rows) = draw_page(self.operation, rng);
                // One row more tells whether there are more.
                let values = (partition, start.unwrap_or(i64::MIN), rows + 1);
                let result = self.session.execute_unpaged(&self.first, values).await?.into_rows_result()?;
                for row in result.rows::<(i64, Option<&[u8]>, Option<i64>)>()? {
                    black_box(row?);
                }
            }
            Operation::Mutate => {
                let (partition, row) = draw_row(self.operation, rng);
                let values = (partition, row, self.cell.as_slice(), now(), 0_i32);
                self.session.execute_unpaged(&self.first, values).await?;
            }
            Operation::CheckAndMutate => self.check_and_mutate(rng).await?,
        }
        Ok(())
    }

    /// Reads a row and writes it if it has the same version then.
    async fn check_and_mutate(&self, rng: &mut Rng) -> anyhow::Result<()> {
        // Its own, because it does not write what the service would.
        let partition = format!("peer-{}", partition(rng.u64(..CONDITIONAL_PARTITIONS)));
        let mut remembered = vec![0; REMEMBERED_BYTES];
        rng.fill(&mut remembered);
        remembered[0] = 1;
        let values = (&partition, vec![&[][..], &remembered]);
        let version = version_of(self.session.execute_unpaged(&self.first, values).await?)?;
        let time = now();
        let values = (
            (&partition, &remembered, self.cell.as_slice(), time, REMEMBERED_SECONDS),
            (0_i32, self.cell.as_slice(), time, &remembered[1..], &partition, version),
        );
        let applied = self.session.batch(&self.batch, values).await?.into_rows_result()?;
        black_box(applied.rows_num());
        Ok(())
    }
}

/// Returns the version of the row among what was read.
fn version_of(result: QueryResult) -> anyhow::Result<Option<Vec<u8>>> {
    type Columns<'r> = (&'r [u8], Option<&'r [u8]>, Option<i64>, Option<&'r [u8]>);
    let result = result.into_rows_result()?;
    for row in result.rows::<Columns<'_>>()? {
        let (aux, _, _, version) = row?;
        if aux.is_empty() {
            return Ok(version.map(<[u8]>::to_vec));
        }
    }
    Ok(None)
}

/// Refuses to compare with a service that has not prepared the same statements.
async fn check(session: &Session, texts: &[String]) -> anyhow::Result<()> {
    let prepared = session.query_unpaged("SELECT query_string FROM system.prepared_statements", ()).await;
    // Other engines than Cassandra may keep no such list.
    let Ok(prepared) = prepared else { return Ok(()) };
    let prepared = prepared.into_rows_result()?;
    let prepared: Vec<&str> =
        prepared.rows::<(&str,)>()?.map(|row| Ok(row?.0)).collect::<anyhow::Result<_>>()?;
    for text in texts {
        ensure!(prepared.contains(&text.as_str()), "the data service has not prepared `{text}`");
    }
    Ok(())
}

/// Returns a row as the service stores it.
async fn a_cell(session: &Session, keyspace: &str) -> anyhow::Result<Vec<u8>> {
    let text = format!("SELECT cell FROM {keyspace}.t_{ROWS} WHERE pk = ? AND sk = ?");
    let rows = session.query_unpaged(text, (partition(0), PARTITION_ROWS - 1)).await?.into_rows_result()?;
    let (cell,) = rows.first_row::<(Vec<u8>,)>().context("the rows of the benchmark")?;
    Ok(cell)
}

fn texts(keyspace: &str, operation: Operation) -> Vec<String> {
    match operation {
        Operation::Get | Operation::HotGet => {
            vec![format!("SELECT cell, WRITETIME(cell) FROM {keyspace}.t_{ROWS} WHERE pk = ? AND sk = ?")]
        }
        Operation::Query10 | Operation::Query100 => vec![format!(
            "SELECT sk, cell, WRITETIME(cell) FROM {keyspace}.t_{ROWS} WHERE pk = ? AND sk >= ? ORDER BY sk ASC LIMIT ?"
        )],
        Operation::Mutate => vec![format!(
            "INSERT INTO {keyspace}.t_{WRITES} (pk, sk, cell) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
        )],
        Operation::CheckAndMutate => {
            let table = format!("{keyspace}.t_{CONDITIONAL}");
            vec![
                format!("SELECT aux, cell, write_time, version FROM {table} WHERE pk = ? AND aux IN ?"),
                format!(
                    "INSERT INTO {table} (pk, aux, cell, write_time) VALUES (?, ?, ?, ?) IF NOT EXISTS USING TTL ?"
                ),
                format!(
                    "UPDATE {table} USING TTL ? SET cell = ?, write_time = ?, version = ? WHERE pk = ? AND aux = 0x IF version = ?"
                ),
            ]
        }
    }
}

/// Returns the time as the service stamps writes: microseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
