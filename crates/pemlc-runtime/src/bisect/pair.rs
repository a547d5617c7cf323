//! Two runtimes run as one, and the case in which they were farthest apart.

use crate::{CacheShape, Inputs, KeyValue, Outputs, RuntimeError, RuntimeKind, Session};
use ndarray::{Axis, Slice, s};

/// Logits of up to this size are compared as they are, larger ones in proportion; as the check does.
const TOLERANCE_SCALE: f64 = 10.0;

/// Inputs, and how far apart the two runtimes' logits were.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) inputs: Inputs,
    /// Largest difference over what the tolerance allows at its position.
    pub(super) excess: f64,
    /// The largest difference.
    pub(super) difference: f64,
    /// Row, position and token of it.
    pub(super) place: [usize; 3],
    pub(super) logits: [f32; 2],
    /// What one runtime says when the other runs.
    pub(super) error: Option<RuntimeFailure>,
}

/// A runtime that fails where the other does not.
#[derive(Debug, Clone)]
pub(super) struct RuntimeFailure {
    /// 0 or 1.
    pub(super) side: usize,
    pub(super) message: String,
}

/// A session that runs two and answers as the first.
pub(super) struct Pair {
    sessions: [Box<dyn Session>; 2],
    tolerance: f64,
    /// Ids from 0 to below this are known.
    tasks: i64,
    pub(super) worst: Option<Case>,
    pub(super) runs: usize,
}

impl Pair {
    pub(super) fn new(sessions: [Box<dyn Session>; 2], tolerance: f64, tasks: usize) -> Self {
        Self { sessions, tolerance, tasks: i64::try_from(tasks).unwrap_or(i64::MAX), worst: None, runs: 0 }
    }

    /// The fewest rows and columns of the worst case that still show at least half of its difference.
    pub(super) fn smallest(&mut self) -> Option<Case> {
        let whole = self.worst.clone()?;
        let enough = |case: &Case| case.error.is_some() || case.excess >= whole.excess / 2.0;
        let row = one_row(&whole.inputs, whole.place[0]);
        let mut best = self.compare(&row).ok().filter(enough).unwrap_or_else(|| whole.clone());
        if let Some(shorter) = first_columns(&best.inputs, best.place[1] + 1) {
            best = self.compare(&shorter).ok().filter(enough).unwrap_or(best);
        }
        Some(best)
    }

    fn compare(&mut self, inputs: &Inputs) -> Result<Case, RuntimeError> {
        let [one, other] = &mut self.sessions;
        let (one, other) = (one.run(inputs), other.run(inputs));
        self.runs += 1;
        self.case(inputs, [&one, &other]).map_or_else(|| one.map(|_| agreeing(inputs)), Ok)
    }

    /// The case that these answers make; `None` when both fail, or when one refuses an id that is no task's, as it may.
    fn case(&self, inputs: &Inputs, answers: [&Result<Outputs, RuntimeError>; 2]) -> Option<Case> {
        let failed = |side: usize, error: &RuntimeError| {
            inputs.task_id.iter().all(|id| (0..self.tasks).contains(id)).then(|| Case {
                excess: f64::INFINITY,
                difference: f64::INFINITY,
                error: Some(RuntimeFailure { side, message: error.to_string() }),
                ..agreeing(inputs)
            })
        };
        match answers {
            [Ok(one), Ok(other)] => Some(self.differing(inputs, [one, other])),
            [Ok(_), Err(error)] => failed(1, error),
            [Err(error), Ok(_)] => failed(0, error),
            [Err(_), Err(_)] => None,
        }
    }

    fn differing(&self, inputs: &Inputs, answers: [&Outputs; 2]) -> Case {
        let mut case = agreeing(inputs);
        let [one, other] = answers.map(|outputs| outputs.logits.view());
        let (rows, positions, _) = one.dim();
        for (row, position) in (0..rows).flat_map(|row| (0..positions).map(move |position| (row, position))) {
            let (mut difference, mut token, mut scale) = (0.0_f64, 0, 0.0_f64);
            let pairs = one.slice(s![row, position, ..]).into_iter().zip(other.slice(s![row, position, ..]));
            for (index, (&a, &b)) in pairs.enumerate() {
                if a == b || (a.is_nan() && b.is_nan()) {
                    continue;
                }
                let apart = (f64::from(a) - f64::from(b)).abs();
                let apart = if apart.is_finite() { apart } else { f64::INFINITY };
                if apart > difference {
                    (difference, token) = (apart, index);
                }
                scale = [scale, f64::from(a).abs(), f64::from(b).abs()].into_iter().fold(0.0, f64::max);
            }
            let excess = difference / (self.tolerance * (scale / TOLERANCE_SCALE).max(1.0));
            if excess > case.excess {
                (case.excess, case.difference, case.place) = (excess, difference, [row, position, token]);
                case.logits = [one[[row, position, token]], other[[row, position, token]]];
            }
        }
        case
    }
}

fn agreeing(inputs: &Inputs) -> Case {
    Case { inputs: inputs.clone(), excess: 0.0, difference: 0.0, place: [0; 3], logits: [0.0; 2], error: None }
}

impl Session for Pair {
    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError> {
        let [one, other] = &mut self.sessions;
        let (one, other) = (one.run(inputs), other.run(inputs));
        self.runs += 1;
        if let Some(case) = self.case(inputs, [&one, &other])
            && self.worst.as_ref().is_none_or(|worst| case.excess > worst.excess)
        {
            self.worst = Some(case);
        }
        one
    }

    fn kind(&self) -> RuntimeKind {
        self.sessions[0].kind()
    }

    fn version(&self) -> String {
        self.sessions[0].version()
    }

    fn execution_provider(&self) -> Option<String> {
        self.sessions[0].execution_provider()
    }

    fn cache_shape(&self) -> CacheShape {
        self.sessions[0].cache_shape()
    }
}

fn one_row(inputs: &Inputs, row: usize) -> Inputs {
    let only = Slice::from(row..row + 1);
    let cut = |layer: &KeyValue| KeyValue {
        key: layer.key.slice_axis(Axis(0), only).to_owned(),
        value: layer.value.slice_axis(Axis(0), only).to_owned(),
    };
    Inputs {
        input_ids: inputs.input_ids.slice_axis(Axis(0), only).to_owned(),
        attention_mask: inputs.attention_mask.slice_axis(Axis(0), only).to_owned(),
        position_ids: inputs.position_ids.slice_axis(Axis(0), only).to_owned(),
        task_id: inputs.task_id.slice_axis(Axis(0), only).to_owned(),
        past: inputs.past.as_ref().map(|layers| layers.iter().map(cut).collect()),
    }
}

/// The first `count` new tokens, if there are more.
fn first_columns(inputs: &Inputs, count: usize) -> Option<Inputs> {
    if count >= inputs.sequence_length() {
        return None;
    }
    let (new, all) = (Slice::from(..count), Slice::from(..inputs.past_length() + count));
    Some(Inputs {
        input_ids: inputs.input_ids.slice_axis(Axis(1), new).to_owned(),
        attention_mask: inputs.attention_mask.slice_axis(Axis(1), all).to_owned(),
        position_ids: inputs.position_ids.slice_axis(Axis(1), new).to_owned(),
        ..inputs.clone()
    })
}
