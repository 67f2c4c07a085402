//! Callers that leave at random moments, before a network that stops answering now and then.

use super::*;

/// Callers of the test.
const CALLERS: usize = 5_000;
/// Most callers at the same time.
const TOGETHER: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_nothing_behind() {
    let Some(points) = contact_points() else { return };
    let seed = std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SHOAL_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = config("cancelled");
    let store = started(&config, std::slice::from_ref(&proxy.address)).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    get(&data, "rows", "a").await.unwrap();
    let connections = proxy.connections.load(Ordering::SeqCst);

    let in_flight = || config.statements_max - store.inner.link.free_statements();
    while in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    // Those that keep the session and watch the clock.
    let resting = store.inner.link.tasks();
    let until = Instant::now() + Duration::from_secs(120);
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        // Long enough, once in a while, that the driver would count ids without a taker and drop the connection.
        if n % TOGETHER == 0 {
            proxy.set(if random.bool() { Network::NoAnswers } else { Network::Fine });
        }
        let (data, leaves) = (data.clone(), Duration::from_micros(random.u64(0..60_000)));
        let kind = random.u8(0..4);
        callers.spawn(async move {
            let key = format!("k{}", n % 100);
            let call = async {
                match kind {
                    0 => put(&data, "rows", 100 + i64::try_from(n).unwrap(), &key).await.map(drop),
                    1 => get(&data, "rows", &key).await.map(drop),
                    2 => data.table("other", "table").await.map(drop),
                    _ => {
                        let request = crate::read::QueryRequest {
                            table: "rows".to_owned(),
                            partition_key: "p".to_owned(),
                            page_size: 10,
                            ..Default::default()
                        };
                        data.query(request, Consistency::Quorum).await.map(drop)
                    }
                }
            };
            // Dropped in the middle, whatever it is waiting for.
            drop(tokio::time::timeout(leaves, Box::pin(call)).await);
        });
        if callers.len() >= TOGETHER {
            while callers.join_next().await.is_some() {}
        }
    }
    while callers.join_next().await.is_some() {}
    // Once a second the driver counts the ids without a taker that are older than a second.
    proxy.set(Network::NoAnswers);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    proxy.set(Network::Fine);
    while in_flight() > 0 || store.inner.link.tasks() > resting {
        let left = (in_flight(), store.inner.link.tasks());
        assert!(Instant::now() < until, "statements and tasks left: {left:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.connections.load(Ordering::SeqCst), connections, "connections were made anew");
    put(&data, "rows", 1_000_000, "a").await.unwrap();
    assert_eq!(get(&data, "rows", "a").await.unwrap().write_time, moment(1_000_000));
    drop_keyspace(&points, &config.keyspace).await;
}
