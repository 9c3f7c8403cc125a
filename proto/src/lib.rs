//! The gRPC contract between the daemon and its clients, the paths they meet at, and nothing else.

pub mod paths;

/// Version 1 of the contract.
#[expect(clippy::pedantic, clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("waya.v1");
}

/// The compiled contract, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/waya.bin"));

/// Metadata of a refused call: the error's `snake_case` code, as in the HTTP API.
pub const ERROR_CODE: &str = "waya-code";
/// Metadata of a refused call: the field that was wrong.
pub const ERROR_FIELD: &str = "waya-field";
