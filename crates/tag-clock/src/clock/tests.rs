//! Checks that run on every engine: which loads a stamp covers, and for how long.

use std::sync::LazyLock;

use shoal_redis_link::{Link, LinkConfig, Script};
use shoal_testing::{Cluster, RedisServer};

use super::*;
use crate::redis::RedisClockConfig;
use crate::stamp::{Judge, STAMPS_MAX, Verdict};

const NAMESPACE: &str = "object.data.users";
/// The longest time of anything that is not itself measured.
const PATIENCE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(40);
/// The bound of stamps in a check that reaches it.
const FEW: usize = 100;

static TICK: LazyLock<Script> = LazyLock::new(|| {
    RedisClock::script(
        "test.tick",
        &["local _, run = epoch_of_shard() return { exact(run), exact((tick())) }"],
    )
});

/// A clock with the link it is over, if it is over one.
struct World {
    clock: TagClock,
    link: Option<Link>,
}

impl World {
    fn memory(stamps_max: usize) -> World {
        World { clock: TagClock::Memory(MemoryClock::new(stamps_max)), link: None }
    }

    async fn redis(url: String, config: RedisClockConfig) -> World {
        let link = Link::open(LinkConfig::new(url, "cache")).expect("a valid URL");
        link.ready(PATIENCE).await.expect("redis answers");
        World { clock: TagClock::Redis(RedisClock::new(link.clone(), config)), link: Some(link) }
    }

    fn config() -> RedisClockConfig {
        RedisClockConfig::new(format!("t{:x}:", fastrand::u64(..)))
    }

    /// Begins a load, as of which an entry is built.
    async fn load(&self, route: &str) -> u64 {
        match &self.clock {
            TagClock::Memory(clock) => clock.tick(),
            TagClock::Redis(clock) => {
                let link = self.link.as_ref().expect("a link");
                let shard = clock.shard(NAMESPACE, route).await.expect("redis answers");
                let reply =
                    clock.read_and_write(link, &TICK, &shard, &[], true).await.expect("redis answers");
                crate::process::number(&reply[1]).expect("a number")
            }
        }
    }

    async fn verdict(&self, route: &str, built_at: u64, tag: &str) -> Verdict {
        match &self.clock {
            TagClock::Memory(clock) => clock.judge(NAMESPACE, built_at, [tag]),
            TagClock::Redis(clock) => {
                let shard = clock.shard(NAMESPACE, route).await.expect("redis answers");
                let mut ask = redis::cmd("ZMSCORE");
                ask.arg(shard.state()).arg("f").arg(format!("#{tag}")).arg(format!("~{tag}"));
                let link = self.link.as_ref().expect("a link");
                let scores: Vec<Option<f64>> = link.query(&ask).await.expect("redis answers");
                let score = |at: usize| scores[at].unwrap_or(0.0) as u64;
                let mut judge = Judge::new(built_at, score(0));
                judge.tag(0, score(1), score(2));
                judge.verdict()
            }
        }
    }

    /// Returns whether what is loaded now is kept.
    async fn keeps(&self, tag: &str) -> bool {
        let built_at = self.load("p").await;
        self.verdict("p", built_at, tag).await == Verdict::Current
    }

    async fn begin(&self, tag: &str, length: Duration) -> Intent {
        self.clock.begin(NAMESPACE, "p", &[tag.to_owned()], length).await.expect("redis answers")
    }

    async fn end(&self, intent: Intent) {
        self.clock.end(intent).await.expect("redis answers");
    }

    async fn runs_out(&self, tag: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.keeps(tag).await {
            assert!(std::time::Instant::now() < deadline, "the intent never ran out");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn all(world: &World) {
    intent_hides_loads_until_its_end(world).await;
    overlapping_intents_end_with_the_last(world).await;
    abandoned_intent_runs_out(world).await;
    late_end_lowers_no_other_intent(world).await;
    extension_covers_the_gap(world).await;
    stamps_cover_what_was_built_before(world).await;
}

async fn intent_hides_loads_until_its_end(world: &World) {
    let before = world.load("p").await;
    let intent = world.begin("one", LONG).await;
    assert!(!intent.is_late());
    let during = world.load("p").await;
    for built_at in [before, during] {
        assert_eq!(world.verdict("p", built_at, "one").await, Verdict::Invalidated { tag: Some(0) });
        assert_eq!(world.verdict("p", built_at, "other").await, Verdict::Current);
    }
    world.end(intent).await;
    for built_at in [before, during] {
        assert_eq!(world.verdict("p", built_at, "one").await, Verdict::Invalidated { tag: Some(0) });
    }
    assert!(world.keeps("one").await);
}

async fn overlapping_intents_end_with_the_last(world: &World) {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let tag = format!("overlap{order:?}");
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(Some(world.begin(&tag, LONG).await));
        }
        for (ended, writer) in order.into_iter().enumerate() {
            assert!(!world.keeps(&tag).await, "{ended} of 3 ended, in the order {order:?}");
            world.end(open[writer].take().expect("open")).await;
        }
        assert!(world.keeps(&tag).await, "{order:?}");
    }
}

async fn abandoned_intent_runs_out(world: &World) {
    drop(world.begin("abandoned", SHORT).await);
    assert!(!world.keeps("abandoned").await);
    world.runs_out("abandoned").await;
    // The one that was abandoned is not counted any more.
    let intent = world.begin("abandoned", LONG).await;
    world.end(intent).await;
    assert!(world.keeps("abandoned").await);
}

async fn late_end_lowers_no_other_intent(world: &World) {
    let late = world.begin("late", SHORT).await;
    world.runs_out("late").await;
    let other = world.begin("late", LONG).await;
    world.end(late).await;
    assert!(!world.keeps("late").await, "the other writes still");
    world.end(other).await;
    assert!(world.keeps("late").await);
}

async fn extension_covers_the_gap(world: &World) {
    let mut intent = world.begin("slow", SHORT).await;
    world.runs_out("slow").await;
    assert!(intent.is_late());
    let gap = world.load("p").await;
    world.clock.extend(&mut intent).await.expect("redis answers");
    assert_eq!(world.verdict("p", gap, "slow").await, Verdict::Invalidated { tag: Some(0) });
    assert!(!world.keeps("slow").await);
    world.end(intent).await;
    assert!(world.keeps("slow").await);
    let mut intent = world.begin("slow", SHORT).await;
    world.runs_out("slow").await;
    let other = world.begin("slow", LONG).await;
    intent.length = LONG;
    world.clock.extend(&mut intent).await.expect("redis answers");
    world.end(other).await;
    assert!(!world.keeps("slow").await, "the extended one writes still");
    world.end(intent).await;
    assert!(world.keeps("slow").await);
    let mut intent = world.begin("slow", LONG).await;
    world.clock.extend(&mut intent).await.expect("redis answers");
    world.end(intent).await;
    assert!(world.keeps("slow").await, "an extension in time counts once");
}

async fn stamps_cover_what_was_built_before(world: &World) {
    let routes = ["p", "q", "r", "s"];
    let tags = |tag: &str| vec![tag.to_owned()];
    let mut built = Vec::new();
    for route in routes {
        built.push(world.load(route).await);
    }
    world.clock.expire(NAMESPACE, &tags("soft")).await.expect("redis answers");
    world.clock.invalidate(NAMESPACE, &tags("hard")).await.expect("redis answers");
    for (route, built_at) in routes.iter().zip(&built) {
        assert!(
            matches!(world.verdict(route, *built_at, "soft").await, Verdict::Expired { at } if at > *built_at)
        );
        assert_eq!(world.verdict(route, *built_at, "hard").await, Verdict::Invalidated { tag: Some(0) });
        assert_eq!(world.verdict(route, *built_at, "other").await, Verdict::Current);
    }
    assert!(world.keeps("soft").await && world.keeps("hard").await);
    world.clock.clear(NAMESPACE).await.expect("redis answers");
    for (route, built_at) in routes.iter().zip(&built) {
        assert_eq!(world.verdict(route, *built_at, "other").await, Verdict::Invalidated { tag: None });
    }
    assert!(world.keeps("other").await);
}

async fn dropped_stamps_raise_the_floor(world: &World) {
    let before = world.load("p").await;
    for index in 0..3 * FEW {
        let tags = [format!("t{index}")];
        world.clock.invalidate(NAMESPACE, &tags).await.expect("redis answers");
    }
    assert_eq!(world.verdict("p", before, "t0").await, Verdict::Invalidated { tag: None });
    assert_eq!(world.verdict("p", before, "other").await, Verdict::Invalidated { tag: None });
    assert!(world.keeps("t0").await && world.keeps("t299").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    all(&World::memory(STAMPS_MAX)).await;
    dropped_stamps_raise_the_floor(&World::memory(FEW)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms() {
    let Some(server) = RedisServer::start().await else { return };
    all(&World::redis(server.url(), World::config()).await).await;
    let few = RedisClockConfig { stamps_max: FEW, ..World::config() };
    let prefix = few.prefix.clone();
    dropped_stamps_raise_the_floor(&World::redis(server.url(), few).await).await;
    let stamps = server.ask(&format!("ZCARD {prefix}{{{NAMESPACE}#0}}t"));
    assert!(stamps.parse::<usize>().expect("a number") <= FEW + 1, "{stamps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_conforms() {
    let Some(cluster) = Cluster::start().await else { return };
    all(&World::redis(cluster.url(), World::config()).await).await;
}

#[tokio::test]
async fn lost_count_lets_intents_run_out() {
    let Some(server) = RedisServer::start().await else { return };
    let config = World::config();
    let count = format!("{}{{{NAMESPACE}#0}}w", config.prefix);
    let world = World::redis(server.url(), config).await;
    let first = world.begin("tag", LONG).await;
    assert_eq!(server.ask(&format!("DEL {count}")), "1");
    let second = world.begin("tag", LONG).await;
    world.end(second).await;
    assert!(!world.keeps("tag").await, "the first writes still");
    world.end(first).await;
    assert!(!world.keeps("tag").await, "how many write is not known");
    assert!(server.ask(&format!("PTTL {count}")).parse::<i64>().expect("a number") > 0);
}

#[tokio::test]
async fn lost_state_keeps_nothing_for_an_intent() {
    let Some(server) = RedisServer::start().await else { return };
    let world = World::redis(
        server.url(),
        RedisClockConfig { intent_max: |_| Duration::from_millis(300), ..World::config() },
    )
    .await;
    world.runs_out("tag").await;
    let _writes = world.begin("tag", Duration::from_millis(300)).await;
    assert_eq!(server.ask("FLUSHALL"), "OK");
    assert!(!world.keeps("tag").await, "the intent is lost, and the write may come");
    world.runs_out("tag").await;
}

/// The commands of an invalidation do not depend on what it covers.
#[tokio::test]
async fn intent_costs_one_round_trip() {
    let Some(server) = RedisServer::start().await else { return };
    let world = World::redis(server.url(), World::config()).await;
    let scripts = || {
        let info = server.ask("INFO commandstats");
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.map_or(0, |calls| calls.split(',').next().expect("a count").parse::<u32>().expect("a number"))
    };
    let intent = world.begin("tag", LONG).await;
    world.end(intent).await;
    let before = scripts();
    let intent = world.begin("tag", LONG).await;
    assert_eq!(scripts() - before, 1);
    world.end(intent).await;
    assert_eq!(scripts() - before, 2);
}
