//! Selects the SRV records of a name that count, and computes the weight of each address (RFC 2782).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::discovery::source::TARGETS_MAX;
use crate::discovery::target::Target;

/// The number of parts that a host's weight is divided into among its addresses: divisible by one to eight. A record of weight
/// zero beside others gets one part: "a very small chance of being selected".
const PARTS: u32 = 840;

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Groups the records by priority, the lowest number first. A group is used while it has an address at all. The target `.` says
/// that the service does not exist.
pub(super) fn tiers(services: Vec<Service>) -> impl Iterator<Item = Vec<Service>> {
    let mut tiers: BTreeMap<u16, Vec<Service>> = BTreeMap::new();
    for service in services {
        if service.host != "." && service.port > 0 {
            tiers.entry(service.priority).or_default().push(service);
        }
    }
    tiers.into_values()
}

/// Computes the targets of one tier from each service and its addresses. The weights of two records of one address add up.
pub(super) fn targets(tier: &[(Service, Vec<SocketAddr>)]) -> Vec<Target> {
    let weights = || tier.iter().map(|(service, _)| service.weight);
    let all_zero = weights().all(|weight| weight == 0);
    let plain =
        tier.iter().all(|(_, addresses)| addresses.len() <= 1) && (all_zero || weights().all(|w| w > 0));
    let mut shares: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for (service, addresses) in tier {
        let parts = match (service.weight, all_zero, plain) {
            (0, true, true) => 1,
            (0, true, false) => PARTS,
            (0, false, _) => 1,
            (weight, _, true) => u32::from(weight),
            (weight, _, false) => u32::from(weight) * PARTS,
        };
        let each = (parts / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX)).max(1);
        for address in addresses {
            let share = shares.entry(*address).or_default();
            *share = share.saturating_add(each);
        }
    }
    shares.into_iter().take(TARGETS_MAX).map(|(address, weight)| Target { address, weight }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, host: &str) -> Service {
        Service { priority, weight, host: host.into(), port: 7100 }
    }

    /// Checks the targets of records given as weight and ports.
    #[track_caller]
    fn check(tier: &[(u16, &[u16])], expected: &[&str]) {
        let tier: Vec<_> = tier
            .iter()
            .map(|(weight, ports)| {
                let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
                (service(0, *weight, "fish"), addresses)
            })
            .collect();
        let targets: Vec<String> = targets(&tier).iter().map(Target::to_string).collect();
        assert_eq!(targets, expected);
    }

    #[test]
    fn weight_is_the_share() {
        check(&[(10, &[1]), (30, &[2])], &["127.0.0.1:1 weight=10", "127.0.0.1:2 weight=30"]);
        check(&[(0, &[1]), (0, &[2])], &["127.0.0.1:1", "127.0.0.1:2"]);
        check(&[(5, &[])], &[]);
    }

    #[test]
    fn addresses_of_host_share_weight() {
        check(
            &[(1, &[1, 2]), (1, &[3])],
            &["127.0.0.1:1 weight=420", "127.0.0.1:2 weight=420", "127.0.0.1:3 weight=840"],
        );
        check(
            &[(0, &[1, 2]), (0, &[3])],
            &["127.0.0.1:1 weight=420", "127.0.0.1:2 weight=420", "127.0.0.1:3 weight=840"],
        );
    }

    #[test]
    fn zero_weight_gets_tiny_share() {
        check(&[(0, &[1]), (2, &[2])], &["127.0.0.1:1", "127.0.0.1:2 weight=1680"]);
    }

    #[test]
    fn records_of_one_address_add_up() {
        check(&[(2, &[1]), (3, &[1])], &["127.0.0.1:1 weight=5"]);
    }

    #[test]
    fn lowest_priority_comes_first() {
        let records = vec![service(20, 1, "c"), service(10, 1, "a"), service(10, 1, "b"), service(0, 1, ".")];
        let hosts: Vec<Vec<String>> =
            tiers(records).map(|tier| tier.into_iter().map(|service| service.host).collect()).collect();
        assert_eq!(hosts, [vec!["a", "b"], vec!["c"]]);
    }
}
