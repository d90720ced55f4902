//! Where a command's output goes, and what is done with it there.

use std::sync::Arc;

use crate::exec::log::Log;
use crate::exec::ring::Ring;

pub(crate) enum Output {
    /// In memory: who is behind holds the command back.
    Ring(Ring),
    /// On disk: nobody does.
    Log(Arc<Log>),
}
