//! Prefix rows learned directly: the plainest prefix tuning, with log-gates.

use super::{Destination, Method, Moment, PrefixShape, Record, Start, prefix_files, warm_start};
use crate::adaptation::{Adaptation, PrefixRows};
use crate::config::PrefixInit;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::Tensor;

const KEY: &str = "prefix.key";
const VALUE: &str = "prefix.value";
pub(super) const LOG_GATE: &str = "prefix.log_gate";
/// Deviation of cold keys, and of the encoder's key heads.
pub(super) const KEY_DEVIATION: f32 = 0.02;

pub(super) struct Table(PrefixShape);

impl Table {
    pub(super) fn new(shape: PrefixShape) -> Self {
        Self(shape)
    }
}

impl Method for Table {
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        let shape = self.0.rows();
        let count = shape.iter().product();
        set.insert(KEY, Group::Prefix, &shape, Stream::new(seed, KEY, 0).normal(count, KEY_DEVIATION));
        set.insert(VALUE, Group::Prefix, &shape, vec![0.0; count]);
        insert_log_gate(&self.0, set);
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        if self.0.config.init == PrefixInit::Warm {
            let (key, value) = warm_start::rows(start, &self.0)?;
            set.insert(KEY, Group::Prefix, &self.0.rows(), key);
            set.insert(VALUE, Group::Prefix, &self.0.rows(), value);
        }
        Ok(())
    }

    fn adaptation(&self, parameters: &Leaves, _moment: &Moment) -> Adaptation {
        let rows = PrefixRows {
            key: parameters.get(KEY),
            value: parameters.get(VALUE),
            log_gate: log_gate(&self.0, parameters),
        };
        Adaptation { prefix: Some(rows), ..Adaptation::default() }
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let prefix = self.adaptation(&set.constants(), &Moment::Evaluation).prefix;
        Ok(Record { prefix: prefix_files::write(prefix, &self.0, to)?, ..Record::default() })
    }
}

/// One log-gate a layer; without gates, zeros that are never stepped.
pub(super) fn insert_log_gate(shape: &PrefixShape, set: &mut ParameterSet) {
    let layers = shape.model.num_hidden_layers;
    let group = if shape.config.log_gate { Group::LogGate } else { Group::Constant };
    set.insert(LOG_GATE, group, &[layers], vec![shape.log_gate as f32; layers]);
}

/// `[sets, layers, length]`.
pub(super) fn log_gate(shape: &PrefixShape, parameters: &Leaves) -> Tensor<3> {
    let [sets, layers, _, length, _] = shape.rows();
    parameters.get::<1>(LOG_GATE).reshape([1, layers, 1]).expand([sets, layers, length])
}
