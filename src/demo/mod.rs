//! The demo: an in-memory registry and everything around it.
