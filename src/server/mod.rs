//! TCP, TLS and HTTP. Knows nothing of registries.
