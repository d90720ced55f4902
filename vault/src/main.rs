//! `terp-vault`: what a machine leaves behind, sealed.
//!
//! ```text
//! save      stdin: data key, then "copy\n" when the machine stands still
//!           stdout: ready, copied (the machine may run on), done {size, digest, dirty_bytes, data_pages, zero_pages}
//! load      stdin: data key, then "<pid>\n" of the new machine, which has not run yet
//!           stdout: ready, done {pages}
//! overlay   stdin: secret of the disk; its lower-case hexadecimal is the passphrase
//!           stdout: done
//! ```
//!
//! Secrets are 32 bytes, the first of standard input, and are never in arguments. Events are lines of JSON. Whatever
//! fails is said as `{"event":"error","code":…,"detail":…}` with exit code 1; codes are those of `fault.rs`. Files come
//! as descriptors, or as paths for `overlay`.

mod args;
mod fault;
mod image;
mod load;
mod luks;
mod machine;
mod overlay;
mod save;
mod sys;
mod talk;

use args::Command;
use fault::{Fault, Step};

fn main() {
    if let Err(fault) = run() {
        talk::end(&fault);
    }
}

fn run() -> Result<(), Fault> {
    sys::hide_memory().step("keep the memory out of core dumps")?;
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| word.into_string().unwrap_or_default());
    match args::parse(words).map_err(Fault::invalid)? {
        Command::Save(options) => save::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Overlay(options) => overlay::run(&options),
    }
}
