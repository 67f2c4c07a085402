//! Routing: the upstream that a call goes to, the rules for it, and how both are kept current.

pub(crate) mod catalog;
pub(crate) mod descriptors;
pub(crate) mod entry;
pub(crate) mod lint;
pub(crate) mod local_services;
pub(crate) mod reflection_client;
pub(crate) mod route_file;
pub(crate) mod service_claims;
pub(crate) mod table;
