//! The depth of the queues, asked of the jobs service behind the same gateway.

use std::error::Error as _;
use std::time::Duration;

use shoal_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use shoal_proto::jobs::v1::{ListQueuesRequest, Queue};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::dial;

/// Between two looks: each is a call that the gateway counts.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Timeout of an answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Queues of a page.
const QUEUES_MAX: i32 = 100;

/// The queues, or why they are not known. None: no jobs service stands behind the gateway, or nobody was asked yet.
pub(crate) type Queues = Option<Result<Vec<Queue>, String>>;

/// Asks once.
pub(crate) async fn list(channel: Channel) -> Queues {
    let request = ListQueuesRequest { page_size: QUEUES_MAX, ..Default::default() };
    let answer = timeout(WITHIN, JobsServiceClient::new(channel).list_queues(request)).await;
    match answer {
        Ok(Ok(answer)) => Some(Ok(answer.into_inner().queues)),
        Ok(Err(status)) if status.code() == Code::Unimplemented => None,
        // The connection broke: the table says so.
        Ok(Err(status)) if status.source().is_some() => None,
        Ok(Err(status)) => Some(Err(status.message().to_owned())),
        Err(_) => Some(Err(format!("no answer within {WITHIN:?}"))),
    }
}

/// Tells `to` again and again, until nobody listens. A gateway that is away is the table's to tell.
pub(crate) async fn follow(addr: &str, to: mpsc::Sender<Queues>) {
    while !to.is_closed() {
        if let Ok(channel) = dial::connect(addr, WITHIN).await {
            while to.send(list(channel.clone()).await).await.is_ok() {
                sleep(LOOK_EVERY).await;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A line for each queue, those with the most jobs ready first.
pub(crate) fn lines(queues: &Queues) -> Vec<String> {
    match queues {
        None => Vec::new(),
        Some(Err(why)) => vec![format!("queues: not known: {why}")],
        Some(Ok(queues)) => {
            let mut queues: Vec<&Queue> = queues.iter().collect();
            queues.sort_by_key(|queue| (std::cmp::Reverse(queue.ready_count), &queue.name));
            queues.into_iter().map(line).collect()
        }
    }
}

fn line(queue: &Queue) -> String {
    let oldest = match queue.oldest_ready_age.and_then(|age| Duration::try_from(age).ok()) {
        Some(age) => format!(" (first in line for {} s)", age.as_secs()),
        None => String::new(),
    };
    format!(
        "queue {}: {} ready{oldest}, {} running, {} retrying, {} scheduled, {} dead",
        queue.name,
        queue.ready_count,
        queue.running_count,
        queue.retrying_count,
        queue.scheduled_count,
        queue.dead_count
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepest_queues_come_first() {
        let queue =
            |name: &str, ready_count| Queue { name: name.to_owned(), ready_count, ..Default::default() };
        let waiting = Queue {
            oldest_ready_age: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
            running_count: 2,
            ..queue("mail", 70)
        };
        let lines = lines(&Some(Ok(vec![queue("a", 0), queue("b", 3), waiting])));
        assert_eq!(
            lines[0],
            "queue mail: 70 ready (first in line for 9 s), 2 running, 0 retrying, 0 scheduled, 0 dead"
        );
        assert!(lines[1].starts_with("queue b: 3 ready,") && lines[2].starts_with("queue a: 0"), "{lines:?}");
        assert_eq!(
            super::lines(&Some(Err("redis is away".to_owned()))),
            ["queues: not known: redis is away"]
        );
        assert!(super::lines(&None).is_empty());
    }
}
