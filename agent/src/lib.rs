//! terp-agent: what runs inside a machine. As PID 1 it boots the guest; then it serves the host's calls on one
//! byte channel: execs, files, figures, freeze and wake.
//!
//! Shape: one thread reads the channel (`wire::session`), one watches children and their pipes
//! (`exec::watch`), and a small pool runs calls that may block. Nothing here may panic: the death of PID 1
//! is the death of the machine.

mod agent;
mod args;
mod boot;
mod cgroup;
mod environment;
mod erase;
mod exec;
mod fault;
mod files;
mod forked;
mod log;
mod network;
mod pool;
mod processes;
pub mod proto;
mod service;
mod stats;
mod sync;
mod trust;
mod volume;
mod wake;
pub mod wire;

use std::sync::Arc;

use rustix::process::getpid;

use crate::agent::Agent;
use crate::args::Args;
use crate::wire::channel::Channel;

/// Runs the agent until its channel is lost for good. Returns the exit status.
///
/// As PID 1 it never returns: it restarts the machine instead, since the kernel panics when init ends.
#[must_use]
pub fn run() -> i32 {
    if getpid().is_init() {
        let error = match boot::boot() {
            Ok((channel, agent)) => serve(channel, agent),
            Err(error) => error.to_string(),
        };
        log::line(&format!("fatal: {error}"));
        boot::restart();
    }
    match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => match args.start() {
            Ok((channel, agent)) => {
                log::line(&serve(channel, agent));
                1
            }
            Err(error) => {
                log::line(&format!("cannot start: {error}"));
                1
            }
        },
        Err(usage) => {
            log::line(&usage);
            2
        }
    }
}

fn serve(channel: Channel, agent: Agent) -> String {
    let agent = Arc::new(agent);
    if let Err(error) = exec::watch::start(agent.execs.clone()) {
        return format!("cannot watch children: {error}");
    }
    wire::session::serve(channel, &agent)
}
