//! The channel to the host: bytes (`channel`), frames (`frame`), who may write (`outlet`), one call's two
//! directions (`call`) and sessions (`session`). Defined by proto/terp/agent/v1/FRAMING.md.

pub(crate) mod call;
pub(crate) mod channel;
pub mod frame;
pub(crate) mod outlet;
pub(crate) mod session;
