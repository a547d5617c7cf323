//! The initialisers of a graph as a table: where their values are, how they are spread, what is wrong with them.

use super::columns::{self, Columns};
use super::elements::{Chunks, Place};
use super::model::{Graph, Model, Storage, Weight};
use super::{InspectError, name, shortened};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

mod statistics;

pub use statistics::Statistics;

/// The initialisers of one file.
#[derive(Debug, Serialize)]
pub struct WeightTable {
    /// In the order of the file; those of graphs inside nodes follow, named `NODE/ATTRIBUTE/NAME`.
    pub weights: Vec<WeightRow>,
    /// Bytes of all of them. Two that lie in the same place count twice.
    pub bytes: u64,
}

/// One initialiser.
#[derive(Debug, Serialize)]
pub struct WeightRow {
    /// Its name.
    pub name: String,
    /// Number type, for instance `f32`.
    pub dtype: String,
    /// Dimensions, as the file has them.
    pub shape: Vec<i64>,
    /// Bytes its values take; absent when the shape makes no sense.
    pub bytes: Option<u64>,
    /// `inline`, or the external file.
    pub file: String,
    /// First byte in the external file.
    pub offset: Option<u64>,
    /// Values stored, if it is sparse: what follows is about these.
    pub stored: Option<u64>,
    /// How the values are spread; absent for strings, complex numbers and what cannot be read.
    pub statistics: Option<Statistics>,
    /// SHA-256 of the values, little-endian as in `raw_data`.
    pub sha256: Option<String>,
    /// What is wrong, in words.
    pub problem: Option<String>,
}

/// Reads all initialisers of the ONNX file `path`, one piece of one at a time.
pub fn weights(path: &Path) -> Result<WeightTable, InspectError> {
    let model = Model::read(path)?;
    let mut rows = Vec::new();
    collect(&model.graph, "", &model.directory, &mut rows);
    let bytes = rows.iter().filter_map(|row| row.bytes).fold(0, u64::saturating_add);
    Ok(WeightTable { weights: rows, bytes })
}

fn collect(graph: &Graph, prefix: &str, directory: &Path, rows: &mut Vec<WeightRow>) {
    rows.extend(graph.weights.iter().map(|weight| row(weight, prefix, directory)));
    for node in &graph.nodes {
        for (attribute, inner) in node.graphs() {
            let prefix = shortened(&format!("{prefix}{}/{attribute}/", node.label()));
            collect(inner, &prefix, directory, rows);
        }
    }
}

fn row(weight: &Weight, prefix: &str, directory: &Path) -> WeightRow {
    let (file, offset) = match &weight.storage {
        Storage::Inline(_) => ("inline".to_owned(), None),
        Storage::External(Place { location, offset, .. }) => (location.clone(), Some(*offset)),
        Storage::Broken(_) => ("?".to_owned(), None),
    };
    let read = read(weight, directory);
    let problem = read.as_ref().err().cloned();
    let (statistics, sha256) = read.map_or((None, None), |(statistics, hash)| (statistics, Some(hash)));
    WeightRow {
        name: format!("{prefix}{}", weight.name),
        dtype: weight.dtype.to_string(),
        shape: weight.dims.clone(),
        bytes: weight.bytes(),
        file,
        offset,
        stored: weight.stored,
        statistics,
        sha256,
        problem,
    }
}

fn read(weight: &Weight, directory: &Path) -> Result<(Option<Statistics>, String), String> {
    let mut chunks = Chunks::open(weight, directory)?;
    let mut hasher = Sha256::new();
    let mut statistics = statistics::Collector::default();
    let mut left = weight.values().unwrap_or(0);
    let mut values = Vec::new();
    loop {
        let piece = chunks.next()?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        values.clear();
        weight.dtype.decode(piece, usize::try_from(left).unwrap_or(usize::MAX), &mut values);
        left = left.saturating_sub(values.len() as u64);
        statistics.add(&values);
    }
    let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((weight.dtype.is_number().then(|| statistics.finish()), hash))
}

impl WeightTable {
    /// A readable table, and the sums by number type.
    pub fn to_text(&self) -> String {
        let mut table = Columns::new(&[
            "name",
            "type",
            ">bytes",
            "place",
            ">min",
            ">max",
            ">mean abs",
            ">std",
            ">nan",
            ">inf",
            ">zeros",
            "hash",
        ]);
        let mut types: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for row in &self.weights {
            let sums = types.entry(&row.dtype).or_default();
            *sums = (sums.0 + 1, sums.1.saturating_add(row.bytes.unwrap_or(0)));
            table.row(row.cells());
        }
        let mut text = table.render();
        let total = |count: u64, bytes: u64| format!("{count} initialisers, {}", columns::bytes(bytes));
        let _ = writeln!(text, "\n{}", total(self.weights.len() as u64, self.bytes));
        for (dtype, (count, bytes)) in types {
            let _ = writeln!(text, "  {}: {}", dtype, total(count, bytes));
        }
        text
    }
}

impl WeightRow {
    fn cells(&self) -> Vec<String> {
        let dims: Vec<String> = self.shape.iter().map(i64::to_string).collect();
        let sparse = self.stored.map(|stored| format!(" sparse, {stored} stored")).unwrap_or_default();
        let statistics = self.statistics.as_ref();
        let number = |of: fn(&Statistics) -> Option<f64>| match statistics {
            Some(statistics) => of(statistics).map_or("-".to_owned(), columns::value),
            None => String::new(),
        };
        let count = |of: fn(&Statistics) -> u64| statistics.map(|found| of(found).to_string()).unwrap_or_default();
        let hash = self.sha256.as_deref().and_then(|hash| hash.get(..8)).unwrap_or_default();
        vec![
            name(&self.name),
            format!("{}[{}]{sparse}", self.dtype, dims.join(", ")),
            self.bytes.map_or("?".to_owned(), |bytes| bytes.to_string()),
            format!("{}{}", name(&self.file), self.offset.map(|offset| format!(" @{offset}")).unwrap_or_default()),
            number(|found| found.min),
            number(|found| found.max),
            number(|found| found.mean_abs),
            number(|found| found.standard_deviation),
            count(|found| found.nan),
            count(|found| found.infinite),
            count(|found| found.zeros),
            self.problem.as_deref().map_or_else(|| format!("#{hash}"), |problem| format!("<{}>", name(problem))),
        ]
    }
}
