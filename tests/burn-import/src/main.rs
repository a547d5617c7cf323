//! Runs the graphs that `build.rs` imported, on burn's flex backend, and holds them to the trainer's probes.

use anyhow::ensure;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths};
use pemlc_artifact::probes::Probes;
use std::process::ExitCode;

/// Largest difference of a logit that passes.
const TOLERANCE: f32 = 1e-4;

/// Everything that one run takes.
struct Inputs {
    input_ids: Tensor<2, Int>,
    attention_mask: Tensor<2, Int>,
    position_ids: Tensor<2, Int>,
    task_id: Tensor<1, Int>,
    /// Keys and values in turn, layer by layer.
    past: Vec<Tensor<4>>,
}

/// Everything that one run gives.
struct Outputs {
    logits: Tensor<3>,
    present: Vec<Tensor<4>>,
}

type Forward = Box<dyn Fn(Inputs) -> Outputs>;

/// An imported graph.
struct Graph {
    artifact: &'static str,
    file: &'static str,
    /// The task that it answers as, where it has no `task_id`.
    task: Option<usize>,
    load: fn(&Device) -> Forward,
}

include!(concat!(env!("OUT_DIR"), "/graphs.rs"));

fn main() -> anyhow::Result<ExitCode> {
    ensure!(!GRAPHS.is_empty(), "nothing was imported: run `cargo xtask burn-check`");
    let mut passed = true;
    println!("{:<44} {:<16} {:>9} {:>9} {:>8}", "graph", "check", "positions", "max abs", "argmax");
    for graph in GRAPHS {
        for (check, difference) in graph.check()? {
            let name = std::path::Path::new(graph.artifact).file_name().unwrap_or_default().to_string_lossy();
            let Difference { positions, largest, agreeing } = difference;
            let share = 100.0 * agreeing as f64 / positions.max(1) as f64;
            println!(
                "{:<44} {check:<16} {positions:>9} {largest:>9.1e} {share:>6.1} %",
                format!("{name}/{}", graph.file)
            );
            passed &= positions > 0 && largest <= TOLERANCE && agreeing == positions;
        }
    }
    println!("{}", if passed { "passed" } else { "FAILED" });
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How far answers are from those expected.
#[derive(Default)]
struct Difference {
    positions: usize,
    largest: f32,
    agreeing: usize,
}

impl Difference {
    fn add(&mut self, found: &[f32], expected: &[f32]) {
        let top = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        self.positions += 1;
        self.agreeing += usize::from(top(found) == top(expected));
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            self.largest = if difference.is_finite() { self.largest.max(difference) } else { f32::INFINITY };
        }
    }
}

/// A row: tokens and task.
struct Row<'a> {
    tokens: &'a [i64],
    task_id: i64,
}

impl Graph {
    fn check(&self) -> anyhow::Result<Vec<(&'static str, Difference)>> {
        let device = Device::flex();
        let manifest = ArtifactManifest::read(self.artifact.as_ref())?;
        let probes = Probes::read(&ArtifactPaths::new(self.artifact).probes())?;
        let session = Session {
            forward: (self.load)(&device),
            device,
            caches: 2 * manifest.config.num_hidden_layers,
            heads: manifest.config.num_key_value_heads,
            width: manifest.config.head_dim,
        };
        let of_graph = |probe: &usize| self.task.is_none_or(|task| probes.task_id[*probe] == task as i64);
        let chosen: Vec<usize> = (0..probes.count).filter(of_graph).collect();
        let mut checks = vec![
            ("prefill", session.prefill(&probes, &chosen)?),
            ("mixed-batch", session.mixed(&probes, &chosen)?),
            ("cached-decode", session.cached(&probes, &chosen)?),
        ];
        if self.task.is_none() {
            checks.push(("bad-task-id", session.unknown(&probes, manifest.tasks.len() as i64)?));
        }
        Ok(checks)
    }
}

struct Session {
    forward: Forward,
    device: Device,
    /// Key and value tensors of all layers.
    caches: usize,
    heads: usize,
    width: usize,
}

impl Session {
    /// Logits `[row][position][token]` of right-padded rows behind `past` cached tokens, none of them padding.
    fn run(&self, rows: &[Row<'_>], length: usize, past: Option<(usize, Vec<Tensor<4>>)>) -> anyhow::Result<Answer> {
        let (cached, past) = past.unwrap_or_else(|| {
            let empty = || Tensor::zeros([rows.len(), self.heads, 0, self.width], &self.device);
            (0, (0..self.caches).map(|_| empty()).collect())
        });
        let padded = |of: &dyn Fn(&Row<'_>, usize) -> i64, columns: usize| {
            let numbers: Vec<i64> = rows.iter().flat_map(|row| (0..columns).map(|column| of(row, column))).collect();
            Tensor::<2, Int>::from_data(TensorData::new(numbers, [rows.len(), columns]), (&self.device, DType::I64))
        };
        let tasks: Vec<i64> = rows.iter().map(|row| row.task_id).collect();
        let outputs = (self.forward)(Inputs {
            input_ids: padded(&|row, column| row.tokens.get(column).copied().unwrap_or(0), length),
            attention_mask: padded(&|row, column| i64::from(column < cached + row.tokens.len()), cached + length),
            position_ids: padded(&|row, column| (cached + column.min(row.tokens.len() - 1)) as i64, length),
            task_id: Tensor::from_data(TensorData::new(tasks, [rows.len()]), (&self.device, DType::I64)),
            past,
        });
        let [batch, positions, vocabulary] = outputs.logits.dims();
        ensure!((batch, positions) == (rows.len(), length), "logits of shape {:?}", outputs.logits.dims());
        let logits =
            outputs.logits.into_data().try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("logits: {error:?}"))?;
        Ok(Answer { logits, positions, vocabulary, present: outputs.present })
    }

    /// Each probe alone.
    fn prefill(&self, probes: &Probes, chosen: &[usize]) -> anyhow::Result<Difference> {
        let mut difference = Difference::default();
        for &probe in chosen {
            let tokens = probes.tokens(probe);
            let answer = self.run(&[Row { tokens, task_id: probes.task_id[probe] }], tokens.len(), None)?;
            compare(probes, probe, &mut difference, |position| Some(answer.at(0, position)));
        }
        Ok(difference)
    }

    /// All probes in one batch.
    fn mixed(&self, probes: &Probes, chosen: &[usize]) -> anyhow::Result<Difference> {
        let mut difference = Difference::default();
        let row = |probe: &usize| Row { tokens: probes.tokens(*probe), task_id: probes.task_id[*probe] };
        let rows: Vec<Row<'_>> = chosen.iter().map(row).collect();
        let answer = self.run(&rows, probes.length, None)?;
        for (index, &probe) in chosen.iter().enumerate() {
            compare(probes, probe, &mut difference, |position| Some(answer.at(index, position)));
        }
        Ok(difference)
    }

    /// Half of each probe, then the rest from the cache.
    fn cached(&self, probes: &Probes, chosen: &[usize]) -> anyhow::Result<Difference> {
        let mut difference = Difference::default();
        for &probe in chosen {
            let (tokens, task_id) = (probes.tokens(probe), probes.task_id[probe]);
            let (first, rest) = tokens.split_at(tokens.len() / 2);
            if first.is_empty() {
                continue;
            }
            let start = self.run(&[Row { tokens: first, task_id }], first.len(), None)?;
            let past = Some((first.len(), start.present.clone()));
            let end = self.run(&[Row { tokens: rest, task_id }], rest.len(), past)?;
            compare(probes, probe, &mut difference, |position| match position.checked_sub(first.len()) {
                Some(position) => Some(end.at(0, position)),
                None => Some(start.at(0, position)),
            });
        }
        Ok(difference)
    }

    /// A row whose id is no task's is NaN, and the row beside it as it was.
    fn unknown(&self, probes: &Probes, tasks: i64) -> anyhow::Result<Difference> {
        let mut difference = Difference::default();
        let tokens = probes.tokens(0);
        for id in [-1, tasks, i64::MAX, i64::MIN] {
            let rows = [Row { tokens, task_id: probes.task_id[0] }, Row { tokens, task_id: id }];
            let answer = self.run(&rows, tokens.len(), None)?;
            compare(probes, 0, &mut difference, |position| Some(answer.at(0, position)));
            let answered = (0..tokens.len()).any(|position| answer.at(1, position).iter().any(|logit| !logit.is_nan()));
            ensure!(!answered, "task_id {id} was answered");
        }
        Ok(difference)
    }
}

struct Answer {
    logits: Vec<f32>,
    positions: usize,
    vocabulary: usize,
    present: Vec<Tensor<4>>,
}

impl Answer {
    fn at(&self, row: usize, position: usize) -> &[f32] {
        let start = (row * self.positions + position) * self.vocabulary;
        &self.logits[start..start + self.vocabulary]
    }
}

/// Adds the scored positions of `probe`.
fn compare<'a>(probes: &Probes, probe: usize, difference: &mut Difference, found: impl Fn(usize) -> Option<&'a [f32]>) {
    for index in 0..probes.scored {
        let place = probe * probes.scored + index;
        let expected = &probes.logits[place * probes.vocab_size..(place + 1) * probes.vocab_size];
        if let Some(found) = usize::try_from(probes.positions[place]).ok().and_then(&found) {
            difference.add(found, expected);
        }
    }
}
