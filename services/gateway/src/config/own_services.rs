//! The services that are Shoal's own: those that the gateway itself answers, and those of the roles, which no other upstream
//! takes unless it is told to replace them.

use shoal_kit::role::Role;

/// The gateway's own services. Calls of these are answered here, whatever any upstream claims.
pub(crate) const LOCAL: [&str; 4] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "shoal.gateway.v1.GatewayService",
];

/// Services in the package of a role that its clones do not serve: a loader is written by whoever owns the objects.
const SERVED_BY_OTHERS: [&str; 1] = ["shoal.cache.v1.ObjectLoaderService"];

/// Returns the role whose clones serve `service`, if it is one of Shoal's own.
pub(crate) fn role_of(service: &str) -> Option<Role> {
    let package = service.strip_prefix("shoal.")?;
    let role = Role::ALL
        .into_iter()
        .find(|role| package.strip_prefix(role.name()).is_some_and(|rest| rest.starts_with('.')))?;
    (!SERVED_BY_OTHERS.contains(&service)).then_some(role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_owns_what_its_clones_serve() {
        assert_eq!(role_of("shoal.session.v1.SessionService"), Some(Role::Session));
        assert_eq!(role_of("shoal.cache.v1.CacheService"), Some(Role::Cache));
        for other in
            ["shoal.cache.v1.ObjectLoaderService", "shoal.bench.Echo", "shoal.sessions.v1.X", "acme.Shop"]
        {
            assert_eq!(role_of(other), None, "{other}");
        }
    }
}
