//! `probes.safetensors`: the trainer's own answers, to which every exported graph is held.
//!
//! N probes, right-padded to S tokens, K scored positions each, vocabulary V:
//! `input_ids` i64 `[N, S]`, `attention_mask` i64 `[N, S]`, `task_id` i64 `[N]`, `positions` i64 `[N, K]` (indices into S),
//! `logits` f32 `[N, K, V]` (adapted) and `base_logits` f32 `[N, K, V]` (the untouched base model on the same input).

use crate::tensors::{self, NamedTensor, Taking, TensorError, TensorMap};
use std::path::Path;

/// The probes of a run, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    /// N.
    pub count: usize,
    /// S, tokens per probe with padding.
    pub length: usize,
    /// K, scored positions per probe.
    pub scored: usize,
    /// V.
    pub vocab_size: usize,
    /// `[N, S]`, padded on the right.
    pub input_ids: Vec<i64>,
    /// `[N, S]`, 1 for tokens and 0 for padding.
    pub attention_mask: Vec<i64>,
    /// `[N]`.
    pub task_id: Vec<i64>,
    /// `[N, K]`, indices below S of tokens that are not padding.
    pub positions: Vec<i64>,
    /// `[N, K, V]`, of the adapted model.
    pub logits: Vec<f32>,
    /// `[N, K, V]`, of the untouched base model.
    pub base_logits: Vec<f32>,
    /// `[N, K]`, how far the trainer's own f32 logits are from `logits`, which are exact: the largest difference over the vocabulary. Absent
    /// where `logits` are f32 themselves, and in runs of versions that did not measure it.
    pub f32_rounding: Option<Vec<f32>>,
}

/// The tensor that older files lack.
const ROUNDING: &str = "f32_rounding";

impl Probes {
    /// Reads and checks `path`: shapes, ids inside the vocabulary, masks that are a run of ones, positions on tokens.
    pub fn read(path: &Path) -> Result<Self, TensorError> {
        let mut file = Taking::open(path)?;
        let two = |file: &Taking<'_>, name: &str| match *file.shape(name)? {
            [rows, columns] => Ok((rows, columns)),
            ref other => Err(file.malformed(format!("`{name}` has shape {other:?}, expected two dimensions"))),
        };
        let (count, length) = two(&file, "input_ids")?;
        let (_, scored) = two(&file, "positions")?;
        let vocab_size = file.shape("logits")?.last().copied().unwrap_or(0);
        let probes = Self {
            count,
            length,
            scored,
            vocab_size,
            input_ids: file.i64("input_ids", &[count, length])?,
            attention_mask: file.i64("attention_mask", &[count, length])?,
            task_id: file.i64("task_id", &[count])?,
            positions: file.i64("positions", &[count, scored])?,
            logits: file.f32("logits", &[count, scored, vocab_size])?,
            base_logits: file.f32("base_logits", &[count, scored, vocab_size])?,
            f32_rounding: match file.tensors.contains_key(ROUNDING) {
                true => Some(file.f32(ROUNDING, &[count, scored])?),
                false => None,
            },
        };
        probes.check().map_err(|reason| file.malformed(reason))?;
        file.finish()?;
        Ok(probes)
    }

    /// Checks and writes the probes atomically.
    pub fn write(&self, path: &Path) -> Result<(), TensorError> {
        self.check().map_err(|reason| TensorError::Malformed { path: path.to_path_buf(), reason })?;
        let (n, s, k, v) = (self.count, self.length, self.scored, self.vocab_size);
        let mut tensors = TensorMap::from([
            ("input_ids".to_owned(), NamedTensor::i64([n, s], self.input_ids.clone())),
            ("attention_mask".to_owned(), NamedTensor::i64([n, s], self.attention_mask.clone())),
            ("task_id".to_owned(), NamedTensor::i64([n], self.task_id.clone())),
            ("positions".to_owned(), NamedTensor::i64([n, k], self.positions.clone())),
            ("logits".to_owned(), NamedTensor::f32([n, k, v], self.logits.clone())),
            ("base_logits".to_owned(), NamedTensor::f32([n, k, v], self.base_logits.clone())),
        ]);
        if let Some(rounding) = &self.f32_rounding {
            tensors.insert(ROUNDING.to_owned(), NamedTensor::f32([n, k], rounding.clone()));
        }
        tensors::write(path, &tensors)
    }

    /// These, and the first probe of each task once more as task `base`'s, whose answers are the untouched base model's.
    pub fn with_base_task(mut self, base: i64) -> Self {
        let tasks: std::collections::BTreeSet<i64> = self.task_id.iter().copied().collect();
        let firsts = tasks.iter().filter_map(|task| self.task_id.iter().position(|own| own == task));
        let (s, k, v) = (self.length, self.scored, self.vocab_size);
        for probe in firsts.collect::<Vec<_>>() {
            self.input_ids.extend_from_within(probe * s..(probe + 1) * s);
            self.attention_mask.extend_from_within(probe * s..(probe + 1) * s);
            self.positions.extend_from_within(probe * k..(probe + 1) * k);
            self.base_logits.extend_from_within(probe * k * v..(probe + 1) * k * v);
            self.logits.extend_from_slice(&self.base_logits[probe * k * v..(probe + 1) * k * v]);
            if let Some(rounding) = &mut self.f32_rounding {
                // Of the base model's logits it is not known: none is the strictest.
                rounding.extend(std::iter::repeat_n(0.0, k));
            }
            self.task_id.push(base);
            self.count += 1;
        }
        self
    }

    /// Tokens of probe `n` without its padding.
    pub fn tokens(&self, n: usize) -> &[i64] {
        let row = self.row(&self.input_ids, n);
        let real = self.row(&self.attention_mask, n).iter().take_while(|mask| **mask == 1).count();
        row.get(..real).unwrap_or_default()
    }

    fn row<'a>(&self, values: &'a [i64], n: usize) -> &'a [i64] {
        values.get(n * self.length..(n + 1) * self.length).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        let (n, s, k, v) = (self.count, self.length, self.scored, self.vocab_size);
        if n == 0 || s == 0 || k == 0 || v == 0 {
            return Err(format!("no probes: {n} probes of {s} tokens, {k} positions, vocabulary {v}"));
        }
        let expect = |name: &str, found: usize, shape: &[usize]| match tensors::element_count(shape) {
            Some(expected) if expected == found => Ok(()),
            _ => Err(format!("`{name}` holds {found} values, expected {shape:?}")),
        };
        expect("input_ids", self.input_ids.len(), &[n, s])?;
        expect("attention_mask", self.attention_mask.len(), &[n, s])?;
        expect("task_id", self.task_id.len(), &[n])?;
        expect("positions", self.positions.len(), &[n, k])?;
        expect("logits", self.logits.len(), &[n, k, v])?;
        expect("base_logits", self.base_logits.len(), &[n, k, v])?;
        if let Some(rounding) = &self.f32_rounding {
            expect(ROUNDING, rounding.len(), &[n, k])?;
            if let Some(value) = rounding.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
                return Err(format!("`{ROUNDING}` holds {value}"));
            }
        }
        if let Some(id) = self.input_ids.iter().find(|id| !(0..v as i64).contains(id)) {
            return Err(format!("`input_ids` holds {id}, outside the vocabulary of {v}"));
        }
        if let Some(id) = self.task_id.iter().find(|id| **id < 0) {
            return Err(format!("`task_id` holds {id}"));
        }
        for probe in 0..n {
            let mask = self.row(&self.attention_mask, probe);
            let real = self.tokens(probe).len();
            if real == 0 || mask.iter().skip(real).any(|mask| *mask != 0) {
                return Err(format!("`attention_mask` of probe {probe} is not ones followed by zeros: {mask:?}"));
            }
            let positions = self.positions.get(probe * k..(probe + 1) * k).unwrap_or_default();
            if let Some(position) = positions.iter().find(|position| !(0..real as i64).contains(position)) {
                return Err(format!("`positions` of probe {probe} holds {position}, but it has {real} tokens"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes() -> Probes {
        Probes {
            count: 2,
            length: 3,
            scored: 1,
            vocab_size: 4,
            input_ids: vec![1, 2, 3, 3, 1, 0],
            attention_mask: vec![1, 1, 1, 1, 1, 0],
            task_id: vec![0, 1],
            positions: vec![2, 1],
            logits: (0..8).map(|n| n as f32).collect(),
            base_logits: vec![0.25; 8],
            f32_rounding: Some(vec![1e-5, 2e-5]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probes.safetensors");
        probes().write(&path).unwrap();
        let read = Probes::read(&path).unwrap();
        assert_eq!(read, probes());
        assert_eq!((read.tokens(0), read.tokens(1)), (&[1, 2, 3][..], &[3, 1][..]));
        // Runs of versions that did not measure it.
        let older = Probes { f32_rounding: None, ..probes() };
        older.write(&path).unwrap();
        assert_eq!(Probes::read(&path).unwrap(), older);
    }

    #[test]
    fn the_base_model_answers_the_first_probe_of_each_task() {
        let probes = Probes { task_id: vec![1, 1], ..probes() }.with_base_task(2);
        assert_eq!((probes.count, &probes.task_id[..]), (3, &[1, 1, 2][..]));
        assert_eq!(probes.tokens(2), probes.tokens(0));
        assert_eq!(probes.logits[8..], [0.25; 4]);
        assert_eq!(probes.f32_rounding, Some(vec![1e-5, 2e-5, 0.0]));
        assert_eq!(probes.check(), Ok(()));
    }

    #[test]
    fn inconsistent_probes_are_refused() {
        let error = |change: &dyn Fn(&mut Probes)| {
            let mut probes = probes();
            change(&mut probes);
            probes.write(Path::new("probes.safetensors")).unwrap_err().to_string()
        };
        insta::assert_snapshot!(
            [
                error(&|probes| probes.input_ids[0] = 4),
                error(&|probes| probes.attention_mask[0] = 0),
                error(&|probes| probes.positions[1] = 2),
                error(&|probes| probes.task_id[1] = -1),
                error(&|probes| probes.logits.truncate(7)),
                error(&|probes| probes.scored = 0),
                error(&|probes| probes.f32_rounding = Some(vec![f32::NAN, 0.0])),
            ]
            .join("\n"), @"
probes.safetensors: `input_ids` holds 4, outside the vocabulary of 4
probes.safetensors: `attention_mask` of probe 0 is not ones followed by zeros: [0, 1, 1]
probes.safetensors: `positions` of probe 1 holds 2, but it has 2 tokens
probes.safetensors: `task_id` holds -1
probes.safetensors: `logits` holds 7 values, expected [2, 1, 4]
probes.safetensors: no probes: 2 probes of 3 tokens, 0 positions, vocabulary 4
probes.safetensors: `f32_rounding` holds NaN
");
    }
}
