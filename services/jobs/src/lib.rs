//! shoal-jobs
