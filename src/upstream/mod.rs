//! Connections to the registries behind the gateway.
