//! Whole-gateway tests.

mod layers;
