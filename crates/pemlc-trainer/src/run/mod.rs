//! A run from its run file to its run directory.

mod request;

pub use request::{TrainOutcome, TrainRequest};

use crate::error::TrainError;
use crate::event::Observer;

/// Trains, and writes the run directory.
pub fn train(_request: TrainRequest, _observer: &mut dyn Observer) -> Result<TrainOutcome, TrainError> {
    unimplemented!()
}
