//! The methods that a clone serves, as the descriptors of its services say; no name in here is of a caller's choice.

use anyhow::Context as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The paths, `/package.Service/Method`, of all methods of these services.
///
/// # Errors
/// When a set is no encoded `FileDescriptorSet`.
pub(crate) fn paths(descriptors: &[&[u8]], services: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    for set in descriptors {
        let set = FileDescriptorSet::decode(*set).context("descriptors")?;
        for file in &set.file {
            for service in &file.service {
                let name = match file.package() {
                    "" => service.name().to_owned(),
                    package => format!("{package}.{}", service.name()),
                };
                if services.contains(&name.as_str()) {
                    paths.extend(service.method.iter().map(|method| format!("/{name}/{}", method.name())));
                }
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_services_are_found() {
        let sets = [tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
        let mut found = paths(&sets, &["grpc.health.v1.Health"]).expect("sets");
        found.retain(|path| path != "/grpc.health.v1.Health/List");
        assert_eq!(found, ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]);
        assert!(paths(&[b"no descriptors"], &[]).is_err());
    }
}
