//! Tests of whole configurations.
