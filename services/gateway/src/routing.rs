//! Which upstream a call goes to and by which rules, and how that is kept current.

pub(crate) mod catalog;
pub(crate) mod descriptors;
pub(crate) mod entry;
pub(crate) mod lint;
pub(crate) mod local_services;
pub(crate) mod reflection_client;
pub(crate) mod route_file;
pub(crate) mod service_claims;
pub(crate) mod table;
