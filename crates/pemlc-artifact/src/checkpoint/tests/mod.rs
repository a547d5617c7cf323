//! Checkpoints written by the tests, then read.

mod companions;
mod folder;
mod gguf;
mod hostile;
mod support;
mod tokenizer;
