//! The calls on commands that nobody needs to follow: their list, and their logs.

use std::sync::Arc;

use prost::Message;

use crate::agent::Agent;
use crate::exec::log::Log;
use crate::fault::Fault;
use crate::proto::{reply, ExecEntries, ExecLog, ExecLogInfo};
use crate::wire::call::{Call, Stop, CHUNK_BYTES};
use crate::wire::frame::MAX_PAYLOAD_BYTES;

/// Of a command that is listed (agent.proto).
pub(crate) const MAX_SHOWN_BYTES: usize = 4096;
/// Largest part of a log (agent.proto).
const MAX_PART_BYTES: u32 = 1 << 20;
/// Leaves room for what stands around the entries.
const MAX_ENTRIES_BYTES: usize = MAX_PAYLOAD_BYTES - 64;
/// Around one entry: its tag and length.
const ENTRY_BYTES: usize = 8;

pub(crate) fn list(agent: &Agent, call: &Arc<Call>) -> Result<(), Stop> {
    let mut page = ExecEntries::default();
    let mut size = 0;
    for entry in agent.execs.listed() {
        let added = entry.encoded_len() + ENTRY_BYTES;
        if size + added > MAX_ENTRIES_BYTES {
            call.reply(reply::Kind::ExecEntries(std::mem::take(&mut page)))?;
            size = 0;
        }
        size += added;
        page.entries.push(entry);
    }
    call.reply(reply::Kind::ExecEntries(page))
}

pub(crate) fn read(agent: &Agent, call: &Arc<Call>, ask: &ExecLog) -> Result<(), Stop> {
    if !(1..=MAX_PART_BYTES).contains(&ask.limit) {
        return Err(Fault::invalid(format!("limit: must be 1 to {MAX_PART_BYTES}: {}", ask.limit)).into());
    }
    agent.await_start(&ask.exec_id);
    let exec = agent.execs.find(&ask.exec_id)?;
    let log = exec.log().ok_or_else(|| Fault::invalid("exec_id: not a background command: it has no log"))?;
    // In this order: what has exited writes no more.
    let exited = exec.exited();
    let span = log.span();
    let offset = ask.offset.clamp(span.first, span.end);
    let info = ExecLogInfo { first_offset: span.first, offset, size: span.end, exited };
    call.reply(reply::Kind::ExecLog(info))?;
    send(call, &log, offset, span.end.min(offset + u64::from(ask.limit)))
}

/// Sends from *offset* to *end*, and ends early where that is no longer kept.
fn send(call: &Call, log: &Log, mut offset: u64, end: u64) -> Result<(), Stop> {
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let credit = call.take_credit(wanted)?;
        match log.read(offset, credit).map_err(|errno| Fault::os(errno, "cannot read the log"))? {
            Some((start, data)) if start == offset => {
                call.return_credit(credit - data.len());
                call.data(&data)?;
                offset += data.len() as u64;
            }
            _ => {
                call.return_credit(credit);
                break;
            }
        }
    }
    Ok(())
}
