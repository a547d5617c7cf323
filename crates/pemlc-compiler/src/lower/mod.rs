//! From a model's configuration and the normal form to IR.

mod attention;
mod builder;
mod decoder;
mod linear;
mod mask;
mod norm;
mod prompt_encoder;
mod rotary;
mod task_switch;

pub use decoder::lower_decoder;
pub use prompt_encoder::{EncoderError, EncoderWeights, lower_prompt_encoder};
