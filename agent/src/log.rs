//! Lines for the machine's console. Nothing of a user (commands, environment, output) is ever logged.

use std::io::Write;

/// Writes one line to standard error. A failed write is ignored: `eprintln!` would panic, and PID 1 must not.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "terp-agent: {text}");
}
