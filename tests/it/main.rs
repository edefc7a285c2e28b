//! Whole-gateway tests: a gateway in this process, real sockets on both sides, and nothing else.
//!
//! In front stands a client that says exactly the bytes it is told to; behind, either the demo's registry or a
//! scripted upstream that fails the test on any request that was not expected. Nothing sleeps to let something
//! happen: tests wait for what they see, and every wait ends after [`harness::PATIENCE`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "these are tests")]

mod access_tokens;
mod acme;
mod admin;
mod audit;
mod bucket;
mod budgets;
mod cache;
mod cache_push;
mod certificates;
mod client_certificates;
mod clients;
mod cors;
mod dashboard;
mod denials;
mod deployment;
mod drain;
mod forward;
mod forwarded;
mod front;
mod harness;
mod http;
mod http2_upstream;
mod kubelet;
mod layers;
mod limits;
mod listing;
mod login;
mod manifests;
mod passed_socket;
mod peers;
mod probe;
mod proxy;
mod pull;
mod push;
mod quirks;
mod redirects;
mod refusal_times;
mod refusals;
mod reload;
mod resume;
mod robots;
mod routing;
mod rules;
mod secrets;
mod tokens;
mod upstreams;
mod workflows;
mod workloads;
