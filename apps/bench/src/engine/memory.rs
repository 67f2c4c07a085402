//! Memory of each stored object in Redis.

use tonic::Status;

use super::CLAIM;
use super::clients::Clients;
use super::meter::Meter;
use crate::results::{Column, Table};

/// Names of attributes.
const THREE: &[&str] = &["plan", "locale", "theme"];

/// Measures objects, and keeps a row for each kind.
struct Objects<'m> {
    meter: &'m mut Meter,
    clients: &'m Clients,
    count: usize,
    table: Table,
}

impl Objects<'_> {
    /// Makes the objects of one kind, `each` in a call, and adds a row with the bytes of one.
    async fn measure<T, F>(
        &mut self,
        name: &str,
        each: usize,
        call: impl Fn(Clients, usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<()>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let bytes = self.meter.memory_of(self.count / each, self.clients.call(call)).await?;
        self.table.row(name, None, vec![vec![bytes / each as f64]]);
        Ok(())
    }
}

/// Measures `count` objects of each kind.
pub(super) async fn all(meter: &mut Meter, clients: &Clients, count: usize) -> anyhow::Result<Table> {
    meter.empty().await?;
    // The buckets themselves are not part of the sessions that are measured.
    meter.all(count / 2, clients.call(|to, n| to.create(format!("x{n}"), &[]))).await?;
    let table = Table::new(
        &format!("Memory of an object in Redis, of {count}"),
        vec![Column::new("bytes", "bytes", 0)],
    );
    let mut objects = Objects { meter, clients, count, table };
    let alone = "session, no attributes, one of its user";
    objects.measure(alone, 1, |to, n| to.create(format!("a{n}"), &[])).await?;
    let ten = "session, three attributes, ten of their user";
    objects.measure(ten, 1, |to, n| to.create(format!("b{}", n / 10), THREE)).await?;
    objects.meter.empty().await?;
    let ready = "ready job, payload of 100 bytes";
    objects.measure(ready, 1, |to, _| to.enqueue("m".to_owned(), String::new())).await?;
    objects.meter.empty().await?;
    let repeatable = "the same with a request_id, for an hour";
    objects.measure(repeatable, 1, |to, n| to.enqueue("i".to_owned(), format!("request-{n}"))).await?;
    let finished = "finished job, more than a ready one";
    objects.measure(finished, CLAIM, |to, _| to.work("i".to_owned(), CLAIM as i32)).await?;
    objects.meter.empty().await?;
    let entry = "cache entry, value of 100 bytes";
    objects.measure(entry, 1, |to, n| to.set("mem", format!("key-{n}"))).await?;
    Ok(objects.table)
}
