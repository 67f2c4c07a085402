//! shoal-redis-link
