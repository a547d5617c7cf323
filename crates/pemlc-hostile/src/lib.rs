//! What tests of readers have in common: valid files are damaged, read, and the memory of the reading thread is counted.
//!
//! Nothing but tests depends on this crate. A test binary that links it runs on the counting allocator.
#![forbid(unsafe_op_in_unsafe_fn)]

mod bytes;
mod counting;
mod json;
mod safetensors;

pub use bytes::{Damage, damage};
pub use counting::{Peak, bounded, peak};
pub use json::{Change, changes, number};
pub use safetensors::{HeaderChange, header_changes};
