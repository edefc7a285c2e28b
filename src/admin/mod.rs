//! The admin listener: health and readiness.
