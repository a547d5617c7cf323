//! The cell of a prompt encoder, for all tasks and layers at once. See `pemlc_artifact::prompt` for the equations.

use super::weights::{EncoderError, EncoderWeights};
use crate::ir::ValueId;
use crate::lower::builder::Builder;
use crate::lower::norm::layer_norm;
use pemlc_artifact::prompt::{Architecture, Generators};

/// `eps` of the cell's layer normalisations.
const EPSILON: f32 = 1e-5;

/// An encoder that is being lowered.
pub(super) struct Encoder<'a, 'b> {
    pub(super) b: &'b mut Builder,
    pub(super) weights: EncoderWeights<'a>,
    /// `[sets, layers, positions, width]`, the layers being those of one generator while its cell is lowered.
    pub(super) shape: [usize; 4],
    /// In front of the names of one generator's weights.
    pub(super) generator: String,
}

impl Encoder<'_, '_> {
    /// What all generators give for the rows, `[sets, layers, length, width]`.
    pub(super) fn cells(&mut self, architecture: &Architecture) -> Result<ValueId, EncoderError> {
        let whole = self.shape;
        let [sets, layers, positions, width] = whole;
        if architecture.nodes == 0 || [sets, layers, architecture.length, width].contains(&0) {
            return Err(EncoderError::Architecture("has no nodes, rows or width".to_owned()));
        }
        let generators = architecture.generators.layers(layers);
        let codes = match architecture.generators {
            Generators::PerLayer => None,
            _ => {
                let codes = ["layer_code".to_owned()].into_iter();
                let codes = self.weights.stack(codes, &[layers, width], vec![1, layers, 1, width])?;
                Some(self.b.constant("layer_code", &codes)?)
            }
        };
        let mut outputs = Vec::new();
        for (index, range) in generators.iter().enumerate() {
            self.generator = if generators.len() == 1 { String::new() } else { format!("generators.{index}.") };
            self.shape = [sets, range.len(), positions, width];
            let code = codes.map(|codes| self.b.slice(format!("{}codes", self.generator), 1, range.clone(), codes));
            outputs.push(self.cell(architecture, code.transpose()?)?);
        }
        self.shape = whole;
        let output = match outputs[..] {
            [output] => output,
            _ => self.b.concat("generators", 1, &outputs)?,
        };
        if positions == architecture.length {
            return Ok(output);
        }
        self.shape[2] = architecture.length;
        Ok(self.b.slice("rows", 2, positions - architecture.length..positions, output)?)
    }

    /// The output of one generator's cell, `[sets, layers, positions, width]`.
    fn cell(&mut self, architecture: &Architecture, codes: Option<ValueId>) -> Result<ValueId, EncoderError> {
        let [sets, _, length, width] = self.shape;
        let at = self.generator.clone();
        let seeds = (0..sets).map(|set| format!("{at}seed.{set}"));
        let seeds = self.weights.stack(seeds, &[length, width], vec![sets, 1, length, width])?;
        let seeds = self.b.constant(format!("{at}seed"), &seeds)?;
        let start = match codes {
            Some(codes) => self.b.add(format!("{at}nodes.0"), seeds, codes)?,
            None => seeds,
        };
        let mut normed = vec![layer_norm(self.b, &format!("{at}nodes.0.norm"), EPSILON, start)?];
        let mut total: Option<ValueId> = None;
        for node in 1..=architecture.nodes {
            let mut sum: Option<ValueId> = None;
            for (index, edge) in architecture.edges.iter().enumerate().filter(|(_, edge)| edge.to == node) {
                let source = normed.get(edge.from).copied().ok_or_else(|| {
                    EncoderError::Architecture(format!("edge {index} goes from node {} to node {node}", edge.from))
                })?;
                let result = self.operation(index, edge.operation, source)?;
                sum = Some(match sum {
                    Some(sum) => self.b.add(format!("{at}nodes.{node}.with_edge.{index}"), sum, result)?,
                    None => result,
                });
            }
            let sum = sum.ok_or_else(|| EncoderError::Architecture(format!("no edge goes to node {node}")))?;
            normed.push(layer_norm(self.b, &format!("{at}nodes.{node}.norm"), EPSILON, sum)?);
            total = Some(match total {
                Some(total) => self.b.add(format!("{at}nodes.sum_to.{node}"), total, sum)?,
                None => sum,
            });
        }
        let total = total.ok_or_else(|| EncoderError::Architecture("has no nodes".to_owned()))?;
        let share = self.b.scalar_f32(1.0 / architecture.nodes as f32)?;
        let mean = self.b.mul(format!("{at}nodes.mean"), total, share)?;
        Ok(layer_norm(self.b, &format!("{at}output"), EPSILON, mean)?)
    }
}
