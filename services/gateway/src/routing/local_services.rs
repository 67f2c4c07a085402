//! The descriptors of the services that the gateway itself answers, and of everything that is Shoal's own.

use crate::routing::descriptors::Files;

/// The descriptors of every Shoal service, of the gateway's own, and of the details of errors.
pub(crate) fn descriptors() -> Result<Files, prost::DecodeError> {
    Files::of_sets(&[
        shoal_proto::DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ])
}
