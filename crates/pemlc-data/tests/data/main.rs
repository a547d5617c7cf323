//! What the crate promises, through its public interface.

mod errors;
mod loading;
mod mixing;
mod scoring;
mod support;
