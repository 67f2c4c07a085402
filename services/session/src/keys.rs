//! The keys of a mesh and what is made with them: tokens, hashes, fingerprints. Pure: it knows no store, protocol or engine. Where keys
//! are kept in a store is `store/keys.rs`.

pub(crate) mod file;
pub(crate) mod fingerprint;
pub(crate) mod keyring;
pub(crate) mod secret;
pub(crate) mod token;
