//! The guest agent's entry.
//!
//! `no_main`: the standard runtime opens /dev/null for missing standard streams before `main` and aborts
//! where it cannot, which is exactly the state an init finds in an initramfs without a console.
#![no_main]

/// C entry point; the library takes everything it needs from the environment of the process.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    terp_agent::run()
}
