//! The call that watches changes.

use futures::stream::{self, BoxStream};
use shoal_proto::data::v1 as pb;
use tonic::{Response, Status};

use crate::change_record::{RowChange, RowChangeKind};
use crate::data::Data;
use crate::feed::{Delivery, Part};
use crate::key::SortKey;
use crate::service::codec::{row_out, timestamp, value_out};
use crate::service::stalled::until_stalled;
use crate::store::Store;

/// Stream of the responses of WatchTable.
pub(super) type WatchStream = BoxStream<'static, Result<pb::WatchTableResponse, Status>>;

pub(super) async fn watch_table<S: Store>(
    data: &Data<S>,
    request: pb::WatchTableRequest,
) -> Result<Response<WatchStream>, Status> {
    let pb::WatchTableRequest { table, partition_key, resume_token } = request;
    let watch = data.watch(&table, partition_key, &resume_token).await?;
    let responses = stream::unfold(watch, |mut watch| async move {
        let delivery = watch.next().await?;
        Some((delivery.map(response), watch))
    });
    Ok(Response::new(until_stalled(responses, data.stream_idle_max, "WatchTable")))
}

fn response(delivery: Delivery) -> pb::WatchTableResponse {
    let Delivery { parts, resume_token } = delivery;
    pb::WatchTableResponse { changes: parts.iter().map(change).collect(), resume_token }
}

fn change(part: &Part) -> pb::Change {
    let record = &part.record;
    let partition = record.partition.as_str();
    let rows = record.rows.get(part.rows.clone()).unwrap_or_default();
    pb::Change {
        partition_key: partition.to_owned(),
        write_time: Some(timestamp(record.write_time)),
        rows: rows.iter().map(|row| changed_row(partition, row.clone())).collect(),
        continues: part.continues(),
    }
}

fn changed_row(partition: &str, change: RowChange) -> pb::ChangedRow {
    use pb::changed_row::Kind;
    let key = |key: SortKey| key.into_value().map(value_out);
    let kind = match change.kind {
        RowChangeKind::Put(row) => Kind::Put(row_out(partition.to_owned(), row)),
        RowChangeKind::Delete(sort_key) => Kind::Delete(pb::mutation::Delete { sort_key: key(sort_key) }),
        RowChangeKind::DeleteRange(range) => Kind::DeleteRange(pb::mutation::DeleteRange {
            start: range.start.and_then(key),
            end: range.end.and_then(key),
        }),
    };
    let old_rows = change.old_rows.into_iter().map(|row| row_out(partition.to_owned(), row)).collect();
    pb::ChangedRow { kind: Some(kind), old_rows }
}
