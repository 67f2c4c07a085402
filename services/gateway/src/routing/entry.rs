//! An upstream as the table knows it: which services it is given, and how far it has described itself.

use std::sync::Arc;

use crate::routing::descriptors::{Files, Service};
use crate::upstream::Upstream;

/// An upstream with what is known of its services.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) upstream: Arc<Upstream>,
    /// Services it is given by name. Beats what any reflection says.
    pub(crate) named: Vec<String>,
    /// Set if the upstream is the default.
    pub(crate) default: bool,
    /// Set if the upstream takes only calls that a route file sends it.
    pub(crate) by_route: bool,
    pub(crate) described: Described,
}

/// The state of an upstream's description of itself.
#[derive(Clone)]
pub(crate) enum Described {
    /// Not yet, and why.
    Pending(String),
    /// Its descriptors, and the services its reflection lists; all empty if it has no reflection.
    Known { services: Vec<String>, files: Arc<Files> },
}

impl Entry {
    /// Notes that the upstream cannot describe itself. What it has said before stays true: an upstream whose newest clone lacks
    /// reflection still serves what it served.
    pub(crate) fn has_no_reflection(&mut self) {
        if matches!(self.described, Described::Pending(_)) {
            self.described = Described::Known { services: Vec::new(), files: Arc::default() };
        }
    }

    /// The services it gets unless another has a better claim.
    pub(crate) fn listed(&self) -> &[String] {
        match &self.described {
            // Services given by name are all an upstream gets: its other services were left out on purpose.
            Described::Known { services, .. } if self.named.is_empty() && !self.by_route => services,
            _ => &[],
        }
    }

    /// The part of the configuration that it is from.
    pub(crate) fn key(&self) -> String {
        let name = &self.upstream.name;
        if self.upstream.role.is_some() { format!("peer.{name}") } else { format!("gateway.upstream.{name}") }
    }

    /// Returns what it says of one.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        match &self.described {
            Described::Known { files, .. } => files.services().find(|service| service.name == name),
            Described::Pending(_) => None,
        }
    }
}

impl Default for Described {
    fn default() -> Self {
        Described::Pending("it was not connected yet".to_owned())
    }
}
