//! Registries: the distribution API, bounded.
