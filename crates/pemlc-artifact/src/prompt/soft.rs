//! `prompt/soft_prompt.safetensors`: the vectors in front of the token embeddings that tasks were adapted by.
//!
//! What runs is the prefix that they come to; these are its source. For S tasks, or S = 1 where all share one, and a longest prompt of L
//! vectors: `embeddings` f32 `[S, L, hidden]`, zero behind the end of shorter prompts, and `length` i64 `[S]`, 0 for a task that has none.

use crate::tensors::{self, NamedTensor, Taking, TensorError, TensorMap};
use std::path::Path;

/// A soft prompt of every task, or one of all.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftPrompts {
    /// Width of an embedding.
    pub hidden: usize,
    /// By task index (one entry when tasks share it), `[length, hidden]`; empty for a task without one.
    pub tasks: Vec<Vec<f32>>,
}

impl SoftPrompts {
    /// Reads and checks `path`.
    pub fn read(path: &Path) -> Result<Self, TensorError> {
        let mut file = Taking::open(path)?;
        let shape = match *file.shape("embeddings")? {
            [tasks, longest, hidden] if hidden > 0 => [tasks, longest, hidden],
            ref other => {
                let reason = format!("`embeddings` has shape {other:?}, expected [tasks, length, hidden]");
                return Err(file.malformed(reason));
            }
        };
        let [tasks, longest, hidden] = shape;
        let values = file.f32("embeddings", &shape)?;
        let lengths = file.i64("length", &[tasks])?;
        let prompts = lengths.iter().enumerate().map(|(task, length)| {
            let length = usize::try_from(*length).ok().filter(|length| *length <= longest);
            let start = task * longest * hidden;
            let length =
                length.ok_or_else(|| file.malformed(format!("`length` of task {task} is not within 0..={longest}")))?;
            Ok(values[start..start + length * hidden].to_vec())
        });
        let prompts = Self { hidden, tasks: prompts.collect::<Result<_, TensorError>>()? };
        file.finish()?;
        Ok(prompts)
    }

    /// Writes it atomically.
    pub fn write(&self, path: &Path) -> Result<(), TensorError> {
        let hidden = self.hidden.max(1);
        let longest = self.tasks.iter().map(|prompt| prompt.len() / hidden).max().unwrap_or(0);
        let mut padded = vec![0.0; self.tasks.len() * longest * hidden];
        for (task, prompt) in self.tasks.iter().enumerate() {
            let start = task * longest * hidden;
            padded[start..start + prompt.len()].copy_from_slice(prompt);
        }
        let lengths = self.tasks.iter().map(|prompt| (prompt.len() / hidden) as i64).collect();
        let map = TensorMap::from([
            ("embeddings".to_owned(), NamedTensor::f32([self.tasks.len(), longest, self.hidden], padded)),
            ("length".to_owned(), NamedTensor::i64([self.tasks.len()], lengths)),
        ]);
        tensors::write(path, &map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_different_lengths_are_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soft_prompt.safetensors");
        let counted = |count: usize| (1..=count).map(|n| n as f32).collect::<Vec<_>>();
        let prompts = SoftPrompts { hidden: 3, tasks: vec![vec![], counted(6), counted(12), vec![], counted(3)] };
        prompts.write(&path).unwrap();
        assert_eq!(SoftPrompts::read(&path).unwrap(), prompts);
        let mut map = tensors::read(&path).unwrap();
        assert_eq!(map["embeddings"].shape, [5, 4, 3]);
        map.insert("length".to_owned(), NamedTensor::i64([5], vec![0, 2, 5, 0, 1]));
        tensors::write(&path, &map).unwrap();
        let error = SoftPrompts::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("`length` of task 2 is not within 0..=4"), "{error}");
    }
}
