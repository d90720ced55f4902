//! The messages of `proto/terp/agent/v1/agent.proto`, generated at build time.
#![allow(clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/terp.agent.v1.rs"));
