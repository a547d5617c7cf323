//! The outer search: spaces, the TPE and random samplers, the ASHA pruner, and studies in Optuna's relational schema.
//!
//! Trials are always compared so that a larger value is better.
#![forbid(unsafe_code)]

mod asha;
mod parzen;
mod sampler;
mod space;
mod storage;
mod trial;

pub use asha::{Asha, AshaError};
pub use parzen::Parzen;
pub use sampler::{RandomSampler, TpeSampler, split, tpe_gamma, tpe_weights};
pub use space::{Condition, Distribution, Parameter, Space, SpaceError};
pub use storage::{Claim, Location, PostgresUrl, StorageError, Study, Unexpected};
pub use trial::{Trial, TrialState, best_trial};
