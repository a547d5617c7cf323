//! Backbones, adaptation methods and prompt encoders in burn, and the multi-task loop that leaves a run directory.
#![forbid(unsafe_code)]

pub mod adaptation;
pub mod backbone;
pub mod bench;
pub mod config;
pub mod device;
mod error;
mod event;
#[cfg(test)]
mod golden;
pub mod import;
pub mod method;
mod optimizer;
pub mod parameters;
mod random;
mod run;

pub use error::TrainError;
pub use event::{Event, Next, Observer};
pub use run::{TrainOutcome, TrainRequest, train};
