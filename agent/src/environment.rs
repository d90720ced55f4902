//! Variables set while the sandbox lives, over those it was woken with and under those of a command.
//!
//! In memory only; what is replaced or removed is zeroed (`erase`).

use std::collections::BTreeMap;

use crate::agent::{Agent, Life};
use crate::exec::command::check_env;
use crate::fault::{Code, Fault};
use crate::proto::{reply, EnvChange, EnvNames, FreezeReply};
use crate::sync::lock;
use crate::wire::call::{Call, Stop};

/// Of all together (agent.proto). With what a message adds they fit in one frame.
const MAX_VARIABLES: usize = 256;
const MAX_BYTES: usize = 64 * 1024;
/// What each counts besides its name and value (agent.proto).
const VARIABLE_BYTES: usize = 16;

/// All or nothing.
///
/// # Errors
/// INVALID: out of bounds, then or already. UNAVAILABLE: frozen.
pub(crate) fn change(agent: &Agent, ask: EnvChange) -> Result<(), Fault> {
    let mut life = lock(&agent.life);
    life.check_awake()?;
    check(&ask.set)?;
    let is_kept = |name: &String| !ask.set.contains_key(name) && !ask.unset.contains(name);
    let kept: Vec<_> = life.ephemeral.iter().filter(|(name, _)| is_kept(name)).collect();
    check_bounds(kept.into_iter().chain(&ask.set))?;
    for name in &ask.unset {
        life.ephemeral.remove(name);
    }
    life.ephemeral.extend(ask.set);
    Ok(())
}

pub(crate) fn names(agent: &Agent) -> EnvNames {
    EnvNames { names: lock(&agent.life).ephemeral.keys().cloned().collect() }
}

/// # Errors
/// INVALID: a name or value that no shell could have, or too much of them.
pub(crate) fn check(env: &BTreeMap<String, String>) -> Result<(), Fault> {
    let is_name = |name: &str| {
        let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        name.bytes().next().is_some_and(is_first) && name.bytes().all(|byte| is_first(byte) || byte.is_ascii_digit())
    };
    if !env.keys().all(|name| is_name(name)) {
        return Err(Fault::invalid("set: a name must be of [A-Za-z0-9_] and not begin with a digit"));
    }
    check_env(env)?;
    check_bounds(env)
}

fn check_bounds<'a>(env: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<(), Fault> {
    let sizes = env.into_iter().map(|(name, value)| name.len() + value.len() + VARIABLE_BYTES);
    let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
    if count > MAX_VARIABLES || bytes > MAX_BYTES {
        return Err(Fault::invalid(format!(
            "set: at most {MAX_VARIABLES} variables and {MAX_BYTES} bytes in all: {count}, {bytes}"
        )));
    }
    Ok(())
}

/// Variables that were taken out of a frozen guest: what is saved of it has them no more.
pub(crate) struct Taken {
    env: BTreeMap<String, String>,
    /// As `Life::replaced` was then.
    replaced: u64,
}

impl Taken {
    pub(crate) fn from(life: &mut Life) -> Self {
        Self { env: std::mem::take(&mut life.ephemeral), replaced: life.replaced }
    }

    /// Gives them to the host. Where it cancelled the call or its session ended before, they go back, unless others took
    /// their place meanwhile.
    pub(crate) fn hand_over(self, agent: &Agent, call: &Call) -> Result<(), Stop> {
        let reply = FreezeReply { ephemeral_env: self.env.clone() };
        let sent = call.reply(reply::Kind::Freeze(reply));
        // Asked last: the END is still to come, and for a host that went before it all of the call has failed.
        let outcome = if call.is_lost() { Err(Stop::Lost) } else { sent };
        if outcome.is_err() {
            let mut life = lock(&agent.life);
            if life.replaced == self.replaced && life.ephemeral.is_empty() {
                life.ephemeral = self.env;
            }
        }
        outcome
    }
}

/// Why a guest cannot be saved without its secrets.
pub(crate) fn secrets_in_use() -> Fault {
    Fault::new(Code::Busy, "a command that was given secrets is running, or something that it left behind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Reply;
    use crate::wire::frame::MAX_PAYLOAD_BYTES;
    use prost::Message;

    /// As many as there may be, and as large, are given back in one frame.
    #[test]
    fn all_fit_in_a_frame() {
        for count in [1, 2, 255, 256] {
            let name = |index| format!("N{index:03}");
            let size = MAX_BYTES / count - VARIABLE_BYTES - 4;
            let mut env: BTreeMap<_, _> = (0..count).map(|index| (name(index), "v".repeat(size))).collect();
            let left = MAX_BYTES - count * (MAX_BYTES / count);
            env.get_mut(&name(0)).unwrap().push_str(&"v".repeat(left));
            assert!(check(&env).is_ok());
            let reply = Reply { kind: Some(reply::Kind::Freeze(FreezeReply { ephemeral_env: env.clone() })) };
            assert!(reply.encoded_len() <= MAX_PAYLOAD_BYTES, "{count}: {}", reply.encoded_len());
            let names = Reply { kind: Some(reply::Kind::EnvNames(EnvNames { names: env.keys().cloned().collect() })) };
            assert!(names.encoded_len() <= MAX_PAYLOAD_BYTES);
            env.get_mut(&name(0)).unwrap().push('v');
            assert!(check(&env).is_err());
        }
    }
}
