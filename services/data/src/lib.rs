//! shoal-data
