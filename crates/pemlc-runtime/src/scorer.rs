//! A scorer graph: prompts in, the log-likelihood of every answer of each row's task out.

use crate::raw::{RawSession, RawTensor};
use crate::{Inputs, OpenOptions, Padding, Row, RuntimeError, RuntimeKind};
use ndarray::{Array2, Ix2};
use std::path::Path;

const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "position_ids", "task_id"];

/// A loaded `scorer.onnx`.
pub struct Scorer {
    session: RawSession,
    path: std::path::PathBuf,
}

impl Scorer {
    /// Loads the scorer `model` with one runtime.
    ///
    /// # Errors
    /// When the runtime is not available or refuses the graph, and when the graph's inputs and outputs are not those of a scorer.
    pub fn open(kind: RuntimeKind, model: &Path, options: &OpenOptions) -> Result<Self, RuntimeError> {
        let session = RawSession::open(kind, model, options)?;
        let same = |found: &[String], expected: &[&str]| {
            found.len() == expected.len() && expected.iter().all(|name| found.iter().any(|found| found == name))
        };
        if !same(session.inputs(), &INPUTS) || !same(session.outputs(), &["scores"]) {
            let message = format!(
                "expected {} to scores, found {} to {}",
                INPUTS.join(", "),
                session.inputs().join(", "),
                session.outputs().join(", ")
            );
            return Err(RuntimeError::Interface { runtime: kind, path: model.to_owned(), message });
        }
        Ok(Self { session, path: model.to_owned() })
    }

    /// `[rows, answers]`: minus infinity where a task has fewer answers than another, NaN in the rows of unknown tasks.
    ///
    /// # Errors
    /// When running fails or the output has another shape.
    pub fn scores(&mut self, rows: &[Row<'_>], length: usize, padding: Padding) -> Result<Array2<f32>, RuntimeError> {
        let inputs = Inputs::prefill(rows, length, padding);
        let feed = [
            (INPUTS[0], RawTensor::I64(inputs.input_ids.into_dyn())),
            (INPUTS[1], RawTensor::I64(inputs.attention_mask.into_dyn())),
            (INPUTS[2], RawTensor::I64(inputs.position_ids.into_dyn())),
            (INPUTS[3], RawTensor::I64(inputs.task_id.into_dyn())),
        ];
        let scores = self.session.run(&feed, "scores")?;
        let runtime = self.session.kind();
        let wrong = |message: String| RuntimeError::Interface { runtime, path: self.path.clone(), message };
        let scores = scores.into_dimensionality::<Ix2>().map_err(|error| wrong(error.to_string()))?;
        if scores.nrows() == rows.len() {
            return Ok(scores);
        }
        Err(wrong(format!("{} rows gave scores of {} rows", rows.len(), scores.nrows())))
    }
}
