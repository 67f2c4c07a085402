//! The nodes and data centres of a cluster, and the data centre whose nodes a clone uses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use scylla::client::session::Session;

/// Port of Cassandra where a contact point names none.
const NATIVE_PORT: u16 = 9042;

/// The nodes that the driver knows, by data centre.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topology {
    nodes: Vec<(SocketAddr, String)>,
}

/// The data centre of a clone, and what an operator should be told about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// The data centre whose nodes take this clone's statements.
    pub(super) datacenter: String,
    /// The reason to name it in the configuration.
    pub(super) advice: Option<String>,
}

impl Topology {
    /// Reads the nodes that a session knows.
    pub(super) fn of(session: &Session) -> Self {
        let state = session.get_cluster_state();
        let nodes = state.get_nodes_info().iter().map(|node| {
            let address = SocketAddr::new(node.address.ip(), node.address.port());
            (address, node.datacenter.clone().unwrap_or_default())
        });
        Self { nodes: nodes.collect() }
    }

    /// Returns the number of nodes of each data centre.
    pub(super) fn datacenters(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (_, datacenter) in &self.nodes {
            *counts.entry(datacenter.as_str()).or_default() += 1;
        }
        counts
    }

    /// Chooses the data centre: the configured one, the only one, or the one of the first contact point that is a node.
    ///
    /// # Errors
    /// When the configured one does not exist, and when there are several and no contact point tells which.
    pub(super) fn choose(
        &self,
        configured: Option<&str>,
        contact_points: &[Vec<SocketAddr>],
    ) -> Result<Choice, String> {
        let datacenters = self.datacenters();
        let names = datacenters.keys().copied().collect::<Vec<_>>().join(", ");
        let choice = |datacenter: &str, advice| Ok(Choice { datacenter: datacenter.to_owned(), advice });
        if let Some(configured) = configured {
            if datacenters.contains_key(configured) {
                return choice(configured, None);
            }
            return Err(format!(
                "data.datacenter is `{configured}`, and the cluster has no such data centre; it has: {names}"
            ));
        }
        if let (1, Some((only, _))) = (datacenters.len(), datacenters.first_key_value()) {
            return choice(only, None);
        }
        let mut of_points: Vec<&str> =
            contact_points.iter().filter_map(|addresses| self.datacenter_of(addresses)).collect();
        let Some(&first) = of_points.first() else {
            return Err(format!(
                "the cluster has several data centres ({names}), and no contact point is the address of a node: name the \
                 clone's own in data.datacenter"
            ));
        };
        of_points.sort_unstable();
        of_points.dedup();
        let advice = (of_points.len() > 1).then(|| {
            format!(
                "the contact points lie in several data centres ({}); this clone uses `{first}`, where the first of them is: \
                 name it in data.datacenter",
                of_points.join(", ")
            )
        });
        choice(first, advice)
    }

    fn datacenter_of(&self, addresses: &[SocketAddr]) -> Option<&str> {
        let exact = self.nodes.iter().find(|(node, _)| addresses.contains(node));
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let found = exact.or_else(|| self.nodes.iter().find(|(node, _)| ips.contains(&node.ip())));
        found.map(|(_, datacenter)| datacenter.as_str())
    }
}

/// Returns the addresses of each contact point; none of a name that cannot be resolved now.
pub(super) async fn resolve(contact_points: &[String]) -> Vec<Vec<SocketAddr>> {
    let mut resolved = Vec::with_capacity(contact_points.len());
    for point in contact_points {
        let with_port = tokio::net::lookup_host(point.as_str()).await;
        let addresses = match with_port {
            Ok(addresses) => addresses.collect(),
            Err(_) => match tokio::net::lookup_host((point.as_str(), NATIVE_PORT)).await {
                Ok(addresses) => addresses.collect(),
                Err(_) => Vec::new(),
            },
        };
        resolved.push(addresses);
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(nodes: &[(&str, &str)]) -> Topology {
        let nodes = nodes.iter().map(|(address, dc)| (address.parse().unwrap(), (*dc).to_owned()));
        Topology { nodes: nodes.collect() }
    }

    fn points(points: &[&str]) -> Vec<Vec<SocketAddr>> {
        points.iter().map(|point| vec![point.parse().unwrap()]).collect()
    }

    #[test]
    fn first_contact_point_chooses_datacenter() {
        let two =
            topology(&[("10.0.0.1:9042", "east"), ("10.0.0.2:9042", "east"), ("10.1.0.1:9042", "west")]);
        let chosen = two.choose(None, &points(&["10.1.0.1:9042"])).unwrap();
        assert_eq!(chosen, Choice { datacenter: "west".to_owned(), advice: None });
        let both = two.choose(None, &points(&["10.0.0.2:9042", "10.1.0.1:9042"])).unwrap();
        assert_eq!(both.datacenter, "east");
        assert!(both.advice.unwrap().contains("east, west"));
        let unknown = two.choose(None, &points(&["192.0.2.1:9042"])).unwrap_err();
        assert!(unknown.contains("data.datacenter") && unknown.contains("east, west"), "{unknown}");
        assert_eq!(two.choose(Some("west"), &[]).unwrap().datacenter, "west");
    }

    #[test]
    fn only_datacenter_needs_no_name() {
        let one = topology(&[("10.0.0.1:9042", "dc1"), ("10.0.0.2:9042", "dc1")]);
        assert_eq!(one.choose(None, &points(&["192.0.2.1:1"])).unwrap().datacenter, "dc1");
        assert_eq!(one.datacenters(), BTreeMap::from([("dc1", 2)]));
        let absent = one.choose(Some("nope"), &[]).unwrap_err();
        assert!(absent.contains("nope") && absent.contains("dc1"), "{absent}");
    }
}
