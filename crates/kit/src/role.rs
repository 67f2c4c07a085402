//! The five roles a clone can have.

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Role {
    /// Takes every call and balances it over the clones of its service: the one address in front.
    Gateway,
    /// Keeps the sessions of users, on Redis.
    Session,
    /// Keeps what is read often in memory, on Redis; loads an object once when it misses.
    Cache,
    /// Keeps tables of sorted rows, on Cassandra.
    Data,
    /// Keeps a queue of jobs with leases and pushes their results, on Redis.
    Jobs,
}

impl Role {
    /// All roles, services before the gateway.
    pub const ALL: [Role; 5] = [Role::Session, Role::Cache, Role::Data, Role::Jobs, Role::Gateway];

    /// The role's name in flags, labels and spans.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Session => "session",
            Role::Cache => "cache",
            Role::Data => "data",
            Role::Jobs => "jobs",
        }
    }

    /// The role of a name.
    pub fn parse(name: &str) -> Option<Role> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
