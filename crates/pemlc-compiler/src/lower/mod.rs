//! From a model's configuration and the normal form to IR.

mod attention;
mod builder;
mod decoder;
mod linear;
mod mask;
mod norm;
mod prompt;
mod rotary;
mod scorer;
mod task_switch;

pub use decoder::{lower_adapter_decoder, lower_decoder, lower_pinned_decoder, lower_uniform_decoder};
pub(crate) use linear::path as projection_path;
pub use prompt::{EncoderError, EncoderWeights, SoftPromptRows, lower_prompt_encoder, lower_soft_prompt};
pub use scorer::{AnswerTokens, lower_scorer, lower_uniform_scorer};
