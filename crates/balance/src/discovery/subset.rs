//! Chooses which of many targets one balancer uses. The number of connections is gateways × cores × clones; a bound on the last
//! factor bounds it (gRFC A68; Google's SRE book, "Deterministic subsetting").
//!
//! Every process orders the targets by a hash of its own identity and the address (rendezvous hashing: a target that comes or
//! goes moves no other). The balancers of one process take windows of that order that begin at even distances. Together they
//! cover every target equally often, to within one. Processes have different identities and even out at random, as in A68.

use std::net::{IpAddr, SocketAddr};

use crate::options::Subset;

/// Returns the targets of `all` that the balancer uses. `all` must be unique and in the same order in every process.
pub(crate) fn of<T>(mut all: Vec<T>, subset: &Subset, address: impl Fn(&T) -> SocketAddr) -> Vec<T> {
    let size = subset.size.max(1);
    if all.len() <= size {
        return all;
    }
    all.sort_by_cached_key(|target| rank(subset.identity, address(target)));
    let count = subset.count.max(1);
    let start = (subset.index % count) * all.len() / count;
    all.rotate_left(start);
    all.truncate(size);
    all
}

fn rank(identity: u64, address: SocketAddr) -> (u64, SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let words = [(ip >> 64) as u64, ip as u64, u64::from(address.port())];
    // The address breaks ties between equal hashes.
    (words.into_iter().fold(mix(identity), |hash, word| mix(hash ^ word)), address)
}

/// Mixes the bits of `word` by the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn targets(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0A00_0000 | n), 7100))).collect()
    }

    fn chosen(
        all: &[SocketAddr],
        identity: u64,
        index: usize,
        count: usize,
        size: usize,
    ) -> BTreeSet<SocketAddr> {
        let subset = Subset { size, ..Subset::of_process(identity, index, count) };
        of(all.to_vec(), &subset, |address| *address).into_iter().collect()
    }

    fn cover(all: &[SocketAddr], identity: u64, count: usize, size: usize) -> Vec<usize> {
        let mut cover: BTreeMap<SocketAddr, usize> = all.iter().map(|address| (*address, 0)).collect();
        for index in 0..count {
            for address in chosen(all, identity, index, count, size) {
                *cover.get_mut(&address).expect("one of all") += 1;
            }
        }
        cover.into_values().collect()
    }

    #[test]
    fn uses_all_of_few_targets() {
        let all = targets(100);
        assert_eq!(chosen(&all, 1, 0, 1, 100).len(), 100);
        assert_eq!(chosen(&targets(101), 1, 0, 1, 100).len(), 100);
        assert_eq!(chosen(&targets(3), 1, 7, 4, 0).len(), 1, "at least one");
    }

    #[test]
    fn cores_cover_targets_evenly() {
        for (all, count, size) in
            [(1_000, 8, 100), (300, 4, 100), (101, 2, 100), (997, 16, 100), (250, 3, 40)]
        {
            let cover = cover(&targets(all), 7, count, size);
            let (least, most) = (cover.iter().min().unwrap(), cover.iter().max().unwrap());
            assert!(most - least <= 1, "{count} cores, {size} of {all}: {least} to {most}");
            assert_eq!(cover.iter().sum::<usize>(), count * size);
        }
    }

    #[test]
    fn removed_target_changes_little() {
        let (before, count, size) = (targets(1_000), 8, 100);
        for gone in [0, 17, 500, 999] {
            let mut after = before.clone();
            after.remove(gone);
            for index in 0..count {
                let (old, new) =
                    (chosen(&before, 7, index, count, size), chosen(&after, 7, index, count, size));
                let changed = old.difference(&new).count();
                assert!(changed <= 2, "core {index} without {gone}: {changed} of {size} changed");
            }
        }
    }

    #[test]
    fn choice_depends_only_on_identity() {
        let all = targets(1_000);
        let one = chosen(&all, 1, 0, 1, 100);
        assert_eq!(one, chosen(&all, 1, 0, 1, 100));
        let common = one.intersection(&chosen(&all, 2, 0, 1, 100)).count();
        assert!((1..30).contains(&common), "{common} in common, 10 expected");
    }

    #[test]
    fn processes_use_targets_evenly() {
        let all = targets(200);
        let mut cover = vec![0_usize; 200];
        for identity in 0..400 {
            for (sum, used) in cover.iter_mut().zip(super::tests::cover(&all, identity, 1, 20)) {
                *sum += used;
            }
        }
        // Binomial: 40 each, standard deviation 6.
        assert!(cover.iter().all(|used| (10..70).contains(used)), "{cover:?}");
    }
}
