//! The five roles a clone can have.

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Role {
    /// The one address.
    Gateway,
    /// Sessions.
    Session,
    /// Everything hot.
    Cache,
    /// Rows.
    Data,
    /// The queue.
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
