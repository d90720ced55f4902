//! Generates the wire's messages from proto/, in pure Rust: no protoc is needed to build.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let root = "../proto";
    let file = "terp/agent/v1/agent.proto";
    println!("cargo:rerun-if-changed={root}/{file}");
    let descriptors = protox::compile([file], [root])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
