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
//! There is no such file where the heads give hidden states: their rows are folded by the trainer.
//! Equations: for each task t and layer l, `h0 = seed_t + layer_code_l`; node `j` is the sum over its edges `i -> j` of
//! `op(LN(h_i))`; the output is `LN(mean of nodes)`; rows are `head_l` of its last `length` positions. LN has no weights and eps 1e-5.
//! A layer without rows has the log-gate [`SHUT`].

use crate::manifest::{self, ManifestError};
use crate::tensors::{self, NamedTensor, Taking, TensorError, TensorMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// Log-gate of a row that is not there: in softmax its share is zero, exactly, in every number type.
pub const SHUT: f32 = -1e4;

/// Version of `architecture.json` that this build writes and reads.
pub const ARCHITECTURE_SCHEMA_VERSION: u32 = 1;

impl Operation {
    /// A short name, unique among operations: `skip`, `mlp_tanh_64`, `attention_4`.
    pub fn name(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Skip => "skip".to_owned(),
            Self::Linear => "linear".to_owned(),
            Self::MlpTanh { width } => format!("mlp_tanh_{width}"),
            Self::MlpGelu { width } => format!("mlp_gelu_{width}"),
            Self::DepthwiseConvolution { kernel } => format!("depthwise_convolution_{kernel}"),
            Self::Glu => "glu".to_owned(),
            Self::Attention { heads } => format!("attention_{heads}"),
        }
    }
}

/// An operation on `X [length, d]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// Zero: a candidate of the search, never of an architecture.
    None,
    /// X.
    Skip,
    /// `X W^T + b`: `weight` `[d, d]`, `bias` `[d]`.
    Linear,
    /// `tanh(X W1^T + b1) W2^T + b2`: `w1` `[width, d]`, `b1`, `w2` `[d, width]`, `b2`.
    MlpTanh {
        /// Bottleneck width.
        width: usize,
    },
    /// `gelu(X W1^T + b1) W2^T + b2` with the error function: weights as of `mlp_tanh`.
    MlpGelu {
        /// Bottleneck width.
        width: usize,
    },
    /// A convolution over positions of each channel on its own, with zeros around: `weight` `[d, kernel]`, `bias` `[d]`.
    DepthwiseConvolution {
        /// Positions that one result sees; odd.
        kernel: usize,
    },
    /// `(X Wa^T + ba) * sigmoid(X Wb^T + bb)`: `a` and `b` with `.weight` `[d, d]` and `.bias` `[d]`.
    Glu,
    /// Self-attention over positions: `q`, `k`, `v`, `out` with `.weight` `[d, d]` and `.bias` `[d]`, scale `1/sqrt(d / heads)`.
    Attention {
        /// Heads; divides `d`.
        heads: usize,
    },
}

/// One edge of the cell: operation applied to node `from`, summed into node `to`. Node 0 is the seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Edge {
    /// Source node.
    pub from: usize,
    /// Target node.
    pub to: usize,
    /// The winning operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Softmax weight of the winner when the search ended.
    pub weight: f64,
}

/// How many generators (a seed and the cell's weights) there are. All have the same edges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Generators {
    /// One for all layers, which tells them by a layer code.
    #[default]
    Shared,
    /// One for every four layers.
    Groups,
    /// One for each layer.
    PerLayer,
}

impl Generators {
    /// The layers of each generator, of `layers` in all.
    pub fn layers(self, layers: usize) -> Vec<Range<usize>> {
        let size = match self {
            Self::Shared => layers,
            Self::Groups => 4,
            Self::PerLayer => 1,
        };
        (0..layers).step_by(size.max(1)).map(|first| first..(first + size).min(layers)).collect()
    }

    fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What the heads give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Insertion {
    /// Keys and values, behind the layer's projections.
    #[default]
    Rows,
    /// Hidden states, which the layer's own key and value projections take, their low-rank deltas included.
    Hidden,
}

impl Insertion {
    fn is_rows(&self) -> bool {
        *self == Self::Rows
    }
}

/// `prompt/architecture.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Architecture {
    /// [`ARCHITECTURE_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Seed width `d`.
    pub width: usize,
    /// Rows.
    pub length: usize,
    /// Where the length was searched for: positions that the cell computes on, of which the last `length` become rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// Where layers were searched for: those that have rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// How many generators there are.
    #[serde(default, skip_serializing_if = "Generators::is_shared")]
    pub generators: Generators,
    /// What the heads give.
    #[serde(default, skip_serializing_if = "Insertion::is_rows")]
    pub insertion: Insertion,
    /// Nodes after the seed.
    pub nodes: usize,
    /// Edges by (to, from).
    pub edges: Vec<Edge>,
}

impl Architecture {
    /// Reads and checks `path`.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let architecture: Self = manifest::read(path, ARCHITECTURE_SCHEMA_VERSION)?;
        architecture.check().map_err(|reason| ManifestError::Malformed { path: path.to_path_buf(), reason })?;
        Ok(architecture)
    }

    /// Checks and writes it atomically.
    pub fn write(&self, path: &Path) -> Result<(), ManifestError> {
        self.check().map_err(|reason| ManifestError::Malformed { path: path.to_path_buf(), reason })?;
        manifest::write(path, self)
    }

    /// Positions that the cell computes on.
    pub fn positions(&self) -> usize {
        self.positions.unwrap_or(self.length)
    }

    fn check(&self) -> Result<(), String> {
        if self.width == 0 || self.length == 0 || self.nodes == 0 {
            return Err(format!(
                "width {}, length {} and nodes {} must be positive",
                self.width, self.length, self.nodes
            ));
        }
        if self.positions() < self.length {
            return Err(format!("{} rows cannot come from {} positions", self.length, self.positions()));
        }
        if let Some(layers) = &self.layers
            && (layers.is_empty() || !layers.is_sorted_by(|left, right| left < right))
        {
            return Err(format!("layers {layers:?} are not at least one, in ascending order"));
        }
        for (index, edge) in self.edges.iter().enumerate() {
            if edge.from >= edge.to || edge.to > self.nodes {
                return Err(format!(
                    "edge {index} goes from node {} to node {}: nodes are 0 to {} and edges go forward",
                    edge.from, edge.to, self.nodes
                ));
            }
            match edge.operation {
                Operation::Attention { heads } if heads == 0 || !self.width.is_multiple_of(heads) => {
                    return Err(format!(
                        "edge {index}: {heads} attention heads do not divide the width {}",
                        self.width
                    ));
                }
                Operation::MlpTanh { width: 0 } | Operation::MlpGelu { width: 0 } => {
                    return Err(format!("edge {index}: an MLP of width 0"));
                }
                Operation::DepthwiseConvolution { kernel } if kernel % 2 == 0 => {
                    return Err(format!("edge {index}: a convolution of {kernel} positions, which is not odd"));
                }
                Operation::None => return Err(format!("edge {index}: `none` is no operation of an architecture")),
                _ => {}
            }
        }
        if let Some(node) = (1..=self.nodes).find(|node| self.edges.iter().all(|edge| edge.to != *node)) {
            return Err(format!("no edge leads to node {node}"));
        }
        if !self.edges.is_sorted_by_key(|edge| (edge.to, edge.from)) {
            return Err("edges are not in the order of (to, from)".to_owned());
        }
        Ok(())
    }
}

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

    fn architecture() -> Architecture {
        let edge = |from, to, operation| Edge { from, to, operation, weight: 0.5 };
        Architecture {
            schema_version: ARCHITECTURE_SCHEMA_VERSION,
            width: 64,
            length: 8,
            positions: None,
            layers: None,
            generators: Generators::Shared,
            insertion: Insertion::Rows,
            nodes: 2,
            edges: vec![
                edge(0, 1, Operation::MlpTanh { width: 16 }),
                edge(0, 2, Operation::Skip),
                edge(1, 2, Operation::Attention { heads: 4 }),
            ],
        }
    }

    #[test]
    fn an_architecture_reads_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("architecture.json");
        architecture().write(&path).unwrap();
        assert_eq!(Architecture::read(&path).unwrap(), architecture());
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
{
  "schema_version": 1,
  "width": 64,
  "length": 8,
  "nodes": 2,
  "edges": [
    {
      "from": 0,
      "to": 1,
      "op": "mlp_tanh",
      "width": 16,
      "weight": 0.5
    },
    {
      "from": 0,
      "to": 2,
      "op": "skip",
      "weight": 0.5
    },
    {
      "from": 1,
      "to": 2,
      "op": "attention",
      "heads": 4,
      "weight": 0.5
    }
  ]
}
"#);
    }

    #[test]
    fn impossible_architectures_are_refused() {
        let error = |change: &dyn Fn(&mut Architecture)| {
            let mut architecture = architecture();
            change(&mut architecture);
            architecture.write(Path::new("architecture.json")).unwrap_err().to_string()
        };
        insta::assert_snapshot!(
            [
                error(&|architecture| architecture.width = 0),
                error(&|architecture| architecture.edges[2].from = 2),
                error(&|architecture| architecture.nodes = 3),
                error(&|architecture| architecture.edges.swap(0, 1)),
                error(&|architecture| architecture.edges[2].operation = Operation::Attention { heads: 5 }),
                error(&|architecture| architecture.edges[0].operation = Operation::MlpTanh { width: 0 }),
            ]
            .join("\n"), @"
architecture.json: width 0, length 8 and nodes 2 must be positive
architecture.json: edge 2 goes from node 2 to node 2: nodes are 0 to 2 and edges go forward
architecture.json: no edge leads to node 3
architecture.json: edges are not in the order of (to, from)
architecture.json: edge 2: 5 attention heads do not divide the width 64
architecture.json: edge 0: an MLP of width 0
");
    }
}
