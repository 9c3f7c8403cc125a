//! Compiles the contract with protox, so that no protoc has to be installed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 8] = [
    "waya/v1/session.proto",
    "waya/v1/queue.proto",
    "waya/v1/events.proto",
    "waya/v1/opt_outs.proto",
    "waya/v1/settings.proto",
    "waya/v1/requests.proto",
    "waya/v1/sandbox.proto",
    "waya/v1/webhooks.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("waya.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
