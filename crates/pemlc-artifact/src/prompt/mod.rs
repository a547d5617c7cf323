//! The frozen prompt: the encoder's architecture, its weights and the trainer's own evaluation.
//!
//! `prompt/prefix.safetensors` holds, for task index `t` (0 alone when shared) and layer `l`, in f32:
//! `tasks.{t}.layers.{l}.key` and `.value`, `[kv_heads, length, head_dim]`, and `.log_gate`, `[length]`: an additive
//! constant on the attention logits of the rows. Keys are stored for "real tokens start at position 0": they take no rotation.
//!
//! `prompt/encoder.safetensors` (f32, `d` = seed width, matrices `[out, in]`, edge `e` in the order of `Architecture::edges`):
//! `seed.{t}` `[positions, d]` and `edges.{e}.…` the operation's weights, both under `generators.{g}.` where there are several generators;
//! `layer_code` `[layers, d]`, unless each layer has its generator; per layer `head.{l}.weight`
//! `[2 * kv_width, d]` (key half, then value half; inside a half head-major) and `head.{l}.bias` `[2 * kv_width]`;
//! `log_gate` `[layers]`; an optional `warm_start.{t}.layers.{l}.key|value` `[kv_heads, length, head_dim]` that is added to the head's rows.
//! Heads that give hidden states are `head.{l}.weight` `[hidden, d]` and `head.{l}.bias` `[hidden]`; keys and values are what the adapted
//! model's own projections of layer `l` make of them, without rotation, and the bias of a projection is part of the warm start.
//! Equations: for each task t and layer l, `h0 = seed_t + layer_code_l`; node `j` is the sum over its edges `i -> j` of
//! `op(LN(h_i))`; the output is `LN(mean of nodes)`; rows are `head_l` of its last `length` positions. LN has no weights and eps 1e-5.
//! A layer without rows has the log-gate [`SHUT`].

mod architecture;
mod soft;

pub use architecture::{
    ARCHITECTURE_SCHEMA_VERSION, Architecture, Edge, Generators, Insertion, LARGEST_KERNEL, LARGEST_WIDTH, MOST_NODES,
    MOST_POSITIONS, Operation,
};

pub use soft::SoftPrompts;

use crate::tensors::{self, NamedTensor, Taking, TensorError, TensorMap};
use std::path::Path;

/// Log-gate of a row that is not there: in softmax its share is zero, exactly, in every number type.
pub const SHUT: f32 = -1e4;

/// The rows of one task and layer.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixLayer {
    /// `[kv_heads, length, head_dim]`, unrotated.
    pub key: Vec<f32>,
    /// `[kv_heads, length, head_dim]`.
    pub value: Vec<f32>,
    /// `[length]`, added to the attention logits of the rows.
    pub log_gate: Vec<f32>,
}

/// `prompt/prefix.safetensors`: the rows of every task and layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefix {
    /// Key-value heads.
    pub kv_heads: usize,
    /// Rows per layer.
    pub length: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// By task index (one entry when tasks share the rows), then by layer.
    pub tasks: Vec<Vec<PrefixLayer>>,
}

impl Prefix {
    /// Whether every log-gate is zero, so that the rows are a plain prefix as PEFT knows it.
    pub fn is_ungated(&self) -> bool {
        self.tasks.iter().flatten().all(|layer| layer.log_gate.iter().all(|gate| *gate == 0.0))
    }

    /// The rows of task `task`: its own, or those that all tasks share.
    pub fn of_task(&self, task: usize) -> Option<&[PrefixLayer]> {
        let index = if self.tasks.len() == 1 { 0 } else { task };
        self.tasks.get(index).map(Vec::as_slice)
    }

    /// Reads and checks `path`: every task has the same number of layers, and all numbers are finite.
    pub fn read(path: &Path) -> Result<Self, TensorError> {
        let mut file = Taking::open(path)?;
        let [kv_heads, length, head_dim] = match *file.shape("tasks.0.layers.0.key")? {
            [heads, length, dim] => [heads, length, dim],
            ref other => {
                return Err(file.malformed(format!(
                    "`tasks.0.layers.0.key` has shape {other:?}, expected [kv_heads, length, head_dim]"
                )));
            }
        };
        let rows = [kv_heads, length, head_dim];
        let mut tasks = Vec::new();
        while file.tensors.contains_key(&format!("tasks.{}.layers.0.key", tasks.len())) {
            let task = tasks.len();
            let mut layers = Vec::new();
            while file.tensors.contains_key(&format!("tasks.{task}.layers.{}.key", layers.len())) {
                let at = format!("tasks.{task}.layers.{}", layers.len());
                layers.push(PrefixLayer {
                    key: file.f32(&format!("{at}.key"), &rows)?,
                    value: file.f32(&format!("{at}.value"), &rows)?,
                    log_gate: file.f32(&format!("{at}.log_gate"), &[length])?,
                });
            }
            tasks.push(layers);
        }
        let prefix = Self { kv_heads, length, head_dim, tasks };
        prefix.check().map_err(|reason| file.malformed(reason))?;
        file.finish()?;
        Ok(prefix)
    }

    /// Checks and writes it atomically.
    pub fn write(&self, path: &Path) -> Result<(), TensorError> {
        self.check().map_err(|reason| TensorError::Malformed { path: path.to_path_buf(), reason })?;
        let rows = [self.kv_heads, self.length, self.head_dim];
        let mut map = TensorMap::new();
        for (task, layers) in self.tasks.iter().enumerate() {
            for (index, layer) in layers.iter().enumerate() {
                let at = format!("tasks.{task}.layers.{index}");
                map.insert(format!("{at}.key"), NamedTensor::f32(rows, layer.key.clone()));
                map.insert(format!("{at}.value"), NamedTensor::f32(rows, layer.value.clone()));
                map.insert(format!("{at}.log_gate"), NamedTensor::f32([self.length], layer.log_gate.clone()));
            }
        }
        tensors::write(path, &map)
    }

    fn check(&self) -> Result<(), String> {
        let rows = tensors::element_count(&[self.kv_heads, self.length, self.head_dim]);
        let layers = self.tasks.first().map_or(0, Vec::len);
        if rows.is_none_or(|rows| rows == 0) || layers == 0 {
            return Err(format!(
                "an empty prefix: {} tasks, {layers} layers, {} heads, {} rows, head width {}",
                self.tasks.len(),
                self.kv_heads,
                self.length,
                self.head_dim
            ));
        }
        for (task, found) in self.tasks.iter().enumerate() {
            if found.len() != layers {
                return Err(format!("task {task} has {} layers, task 0 has {layers}", found.len()));
            }
            for (index, layer) in found.iter().enumerate() {
                for (name, values, expected) in [
                    ("key", &layer.key, rows),
                    ("value", &layer.value, rows),
                    ("log_gate", &layer.log_gate, Some(self.length)),
                ] {
                    if Some(values.len()) != expected {
                        return Err(format!("`tasks.{task}.layers.{index}.{name}` holds {} values", values.len()));
                    }
                    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                        return Err(format!(
                            "`tasks.{task}.layers.{index}.{name}` holds {value}: did training diverge?"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix() -> Prefix {
        let layer = |n: usize| PrefixLayer {
            key: (n..n + 12).map(|n| n as f32).collect(),
            value: (n + 100..n + 112).map(|n| n as f32).collect(),
            log_gate: vec![0.0; 3],
        };
        let tasks = (0..2).map(|task| (0..2).map(|index| layer(40 * task + 20 * index)).collect()).collect();
        Prefix { kv_heads: 2, length: 3, head_dim: 2, tasks }
    }

    #[test]
    fn a_prefix_that_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt/prefix.safetensors");
        let mut prefix = prefix();
        assert!(prefix.is_ungated());
        prefix.tasks[1][0].log_gate[2] = -1.5;
        prefix.write(&path).unwrap();
        let read = Prefix::read(&path).unwrap();
        assert_eq!(read, prefix);
        assert!(!read.is_ungated());
        assert_eq!(read.of_task(1), Some(&prefix.tasks[1][..]));
        assert_eq!(read.of_task(2), None);
        prefix.tasks.truncate(1);
        assert_eq!(prefix.of_task(2), Some(&prefix.tasks[0][..]), "one set of rows is everyone's");
    }

    #[test]
    fn inconsistent_prefixes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prefix.safetensors");
        let unwritten = |change: &dyn Fn(&mut Prefix)| {
            let mut prefix = prefix();
            change(&mut prefix);
            prefix.write(Path::new("prefix.safetensors")).unwrap_err().to_string()
        };
        let unread = |change: &dyn Fn(&mut TensorMap)| {
            prefix().write(&path).unwrap();
            let mut map = tensors::read(&path).unwrap();
            change(&mut map);
            tensors::write(&path, &map).unwrap();
            let error = Prefix::read(&path).unwrap_err().to_string();
            error.replace(&folder.path().display().to_string(), "FOLDER")
        };
        insta::assert_snapshot!(
            [
                unwritten(&|prefix| prefix.tasks[0][1].key[3] = f32::NAN),
                unwritten(&|prefix| prefix.tasks[0][1].value.truncate(11)),
                unwritten(&|prefix| drop(prefix.tasks[1].pop())),
                unwritten(&|prefix| prefix.tasks.clear()),
                unread(&|map| drop(map.remove("tasks.0.layers.0.key"))),
                unread(&|map| drop(map.remove("tasks.1.layers.1.log_gate"))),
                unread(&|map| drop(map.remove("tasks.1.layers.1.key"))),
                unread(&|map| drop(map.insert("tasks.0.layers.0.key".to_owned(), NamedTensor::f32([12], vec![0.0; 12])))),
                unread(&|map| drop(map.insert("tasks.1.layers.0.value".to_owned(), NamedTensor::f32([12], vec![0.0; 12])))),
            ]
            .join("\n"), @"
prefix.safetensors: `tasks.0.layers.1.key` holds NaN: did training diverge?
prefix.safetensors: `tasks.0.layers.1.value` holds 11 values
prefix.safetensors: task 1 has 1 layers, task 0 has 2
prefix.safetensors: an empty prefix: 0 tasks, 0 layers, 2 heads, 3 rows, head width 2
FOLDER/prefix.safetensors: tensor `tasks.0.layers.0.key` is missing
FOLDER/prefix.safetensors: tensor `tasks.1.layers.1.log_gate` is missing
FOLDER/prefix.safetensors: task 1 has 1 layers, task 0 has 2
FOLDER/prefix.safetensors: `tasks.0.layers.0.key` has shape [12], expected [kv_heads, length, head_dim]
FOLDER/prefix.safetensors: tensor `tasks.1.layers.0.value` is f32 [12], expected f32 [2, 3, 2]
");
    }
}
