//! A tiny base model and run directories made of integer-derived weights, a plain reference forward pass, and tract to run exports.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod encoder;
pub mod fixture;
pub mod onnx;
pub mod prompts;
pub mod reference;
pub mod runtime;
pub mod weights;
