//! shoal-session
