//! The calls on what a command reads: input that no stream brings, and the size of its terminal.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Agent;
use crate::exec::terminal;
use crate::fault::Fault;
use crate::proto::{reply, ExecInput, ExecInputReply, ExecResize};
use crate::wire::call::{Call, Stop};

/// Of one call (agent.proto).
const MAX_INPUT_BYTES: usize = 32 * 1024;
/// What is kept for a command that does not read (agent.proto).
pub(crate) const MAX_WAITING_BYTES: usize = 64 * 1024;
/// How long room is waited for (agent.proto).
pub(crate) const ROOM_BOUND: Duration = Duration::from_secs(5);

/// What one call types.
pub(crate) struct Typed<'a> {
    /// Of its first byte; None: behind what there is.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
    pub(crate) close: bool,
    /// The guest is: nothing is accepted.
    pub(crate) frozen: &'a AtomicBool,
}

pub(crate) fn input(agent: &Agent, call: &Arc<Call>, ask: ExecInput) -> Result<(), Stop> {
    if ask.data.len() > MAX_INPUT_BYTES {
        return Err(Fault::invalid(format!("data: longer than {MAX_INPUT_BYTES} bytes")).into());
    }
    agent.await_start(&ask.exec_id);
    let exec = agent.execs.find(&ask.exec_id)?;
    let typed = Typed { offset: ask.offset, data: ask.data, close: ask.close, frozen: agent.execs.frozen() };
    let offset = exec.type_in(typed)?;
    call.reply(reply::Kind::ExecInput(ExecInputReply { offset }))
}

pub(crate) fn resize(agent: &Agent, ask: &ExecResize) -> Result<(), Fault> {
    let size = terminal::check_size(ask.size.unwrap_or_default())?;
    agent.await_start(&ask.exec_id);
    agent.execs.find(&ask.exec_id)?.resize(size)
}
