//! The conformance suite, run on each store: embedded on a clock that is moved by hand, Redis and Redis Cluster on their
//! own. A check makes worlds of two clones, and tells time by polling.

pub(crate) mod world;

mod creating;
mod ending;
mod rekeying;
mod rotating;
mod updating;
mod watching;

/// Runs checks on each store. On a machine without an engine a check is skipped loudly, unless engines are required.
macro_rules! conformance {
    ($($check:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $check() {
                super::$check($crate::store::conformance::world::Embedded).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $check() {
                if let Some(make) = $crate::store::conformance::world::Redis::at("SHOAL_TEST_REDIS") {
                    super::$check(make).await;
                }
            })+
        }
        mod cluster {
            $(#[tokio::test]
            async fn $check() {
                if let Some(make) = $crate::store::conformance::world::Redis::at("SHOAL_TEST_REDIS_CLUSTER") {
                    super::$check(make).await;
                }
            })+
        }
    };
}
use conformance;
