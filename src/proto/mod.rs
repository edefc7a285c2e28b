//! The registry's grammar: pure, no I/O, no async, no clock.
