//! An address of an upstream, and its share of the traffic.

use std::fmt;
use std::net::SocketAddr;

/// The weight of a target that sets none.
pub(crate) const DEFAULT_WEIGHT: u32 = 1;

/// An address to connect to. Two targets with equal addresses are the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The share beside its peers: an endpoint of weight 2 is picked as if it were half as busy. Zero counts as 1.
    pub weight: u32,
}

impl Target {
    /// Creates a target of weight 1.
    pub fn new(address: SocketAddr) -> Target {
        Target { address, weight: DEFAULT_WEIGHT }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::new(address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.weight != DEFAULT_WEIGHT {
            write!(f, " weight={}", self.weight)?;
        }
        Ok(())
    }
}
