//! Prompts as graphs without inputs: an encoder's constants, or vectors in front of the tokens and the adapted model, in; prefix rows out. The
//! outputs are, for every layer in order, `layers.{l}.key` and `layers.{l}.value` `[sets, kv_heads, length, head_dim]`, and log-gates `[sets,
//! length]`.

mod cell;
mod encoder;
mod heads;
mod hidden;
mod operation;
mod soft_prompt;
mod weights;

pub use encoder::lower_prompt_encoder;
pub use soft_prompt::{SoftPromptRows, lower_soft_prompt};
pub use weights::{EncoderError, EncoderWeights};
