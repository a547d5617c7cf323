//! `prompt/architecture.json`: the encoder's cell.

use crate::manifest::{self, ManifestError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// Version of `architecture.json` that this build writes and reads.
pub const ARCHITECTURE_SCHEMA_VERSION: u32 = 1;

/// Most positions of a cell. Evaluating one takes memory by the square of them, which no file has to pay for; prefixes that are searched for
/// have tens.
pub const MOST_POSITIONS: usize = 1 << 10;
/// Largest width of a cell and of an operation inside it.
pub const LARGEST_WIDTH: usize = 1 << 14;
/// Most nodes of a cell.
pub const MOST_NODES: usize = 1 << 6;
/// Most positions that one result of a convolution sees.
pub const LARGEST_KERNEL: usize = (1 << 8) - 1;

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
        for (name, size, most) in [
            ("width", self.width, LARGEST_WIDTH),
            ("positions", self.positions(), MOST_POSITIONS),
            ("nodes", self.nodes, MOST_NODES),
        ] {
            if size > most {
                return Err(format!("{name} is {size}, at most {most} can be read"));
            }
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
                Operation::MlpTanh { width } | Operation::MlpGelu { width } if width > LARGEST_WIDTH => {
                    return Err(format!("edge {index}: an MLP of width {width}, at most {LARGEST_WIDTH} can be read"));
                }
                Operation::DepthwiseConvolution { kernel } if kernel > LARGEST_KERNEL => {
                    return Err(format!(
                        "edge {index}: a convolution of {kernel} positions, at most {LARGEST_KERNEL} can be read"
                    ));
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

#[cfg(test)]
mod tests {
    use super::*;

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
