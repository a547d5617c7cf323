//! Checkpoints: `checkpoints/step-000100/` with parameters, optimiser moments and `state.json`. A folder gets its name once it is complete, so
//! whatever bears such a name can be resumed, and what a kill leaves behind bears another.

use crate::error::TrainError;
use crate::optimizer::AdamW;
use crate::parameters::{Group, ParameterSet};
use burn::tensor::Device;
use pemlc_artifact::atomic::AtomicDir;
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::{Costs, StageRecord};
use pemlc_artifact::tensors::{self, TensorMap, Values};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STATE: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// How many are kept.
const KEPT: usize = 2;
const SCHEMA_VERSION: u32 = 1;

/// Everything but tensors. Random numbers are functions of (seed, step): there is no generator to save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) schema_version: u32,
    /// Steps done.
    pub(crate) step: u64,
    /// What must not change on resuming: see [`super::identity`].
    pub(crate) identity: serde_json::Value,
    /// Of each method.
    pub(crate) methods: Vec<serde_json::Value>,
    /// Group of each parameter.
    pub(crate) groups: BTreeMap<String, String>,
    /// Length of `metrics.jsonl`.
    pub(crate) metrics_bytes: u64,
    pub(crate) costs: Costs,
    /// The step at which training on fresh weights began.
    #[serde(default)]
    pub(crate) origin: u64,
    /// The cell that is trained anew.
    #[serde(default)]
    pub(crate) architecture: Option<Architecture>,
    /// Scores of the stages that are over.
    #[serde(default)]
    pub(crate) stages: Vec<StageRecord>,
}

/// A checkpoint that was read.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    pub(crate) set: ParameterSet,
    pub(crate) optimizer: AdamW,
}

impl State {
    pub(crate) fn new(step: u64, identity: serde_json::Value, methods: Vec<serde_json::Value>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            step,
            identity,
            methods,
            groups: BTreeMap::new(),
            metrics_bytes: 0,
            costs: Costs::default(),
            origin: 0,
            architecture: None,
            stages: Vec::new(),
        }
    }
}

/// Writes a checkpoint below `folder` and removes all but the newest few.
pub(crate) fn write(
    folder: &Path,
    mut state: State,
    set: &ParameterSet,
    optimizer: &AdamW,
) -> Result<PathBuf, TrainError> {
    let path = folder.join(format!("step-{:06}", state.step));
    state.groups =
        set.parameters.iter().map(|(name, parameter)| (name.clone(), group_name(parameter.group).to_owned())).collect();
    let directory = AtomicDir::new(&path).map_err(TrainError::io(&path))?;
    tensors::write(&directory.path().join(PARAMETERS), &set.to_map())?;
    tensors::write(&directory.path().join(OPTIMIZER), &optimizer.to_map())?;
    let text = serde_json::to_vec_pretty(&state).map_err(|error| TrainError::io(&path)(error.into()))?;
    std::fs::write(directory.path().join(STATE), text).map_err(TrainError::io(&path))?;
    directory.commit(true).map_err(TrainError::io(&path))?;
    remove_leftovers(folder)?;
    let all = list(folder)?;
    for (_, old) in all.iter().take(all.len().saturating_sub(KEPT)) {
        std::fs::remove_dir_all(old).map_err(TrainError::io(old))?;
    }
    Ok(path)
}

/// What a kill left of a checkpoint that was being written.
fn remove_leftovers(folder: &Path) -> Result<(), TrainError> {
    for entry in std::fs::read_dir(folder).map_err(TrainError::io(folder))? {
        let entry = entry.map_err(TrainError::io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(".pemlc-") {
            std::fs::remove_dir_all(entry.path()).map_err(TrainError::io(&entry.path()))?;
        }
    }
    Ok(())
}

/// Complete checkpoints below `folder`, oldest first.
pub(crate) fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("step-"));
        if let Some(step) = name.and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the checkpoint in `path`.
pub(crate) fn read(path: &Path, device: &Device) -> Result<Loaded, TrainError> {
    let bad = |reason: String| TrainError::BadCheckpoint { path: path.to_owned(), reason };
    let file = path.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(TrainError::io(&file))?;
    let state: State = serde_json::from_str(&text).map_err(|error| bad(format!("{STATE}: {error}")))?;
    if state.schema_version != SCHEMA_VERSION {
        return Err(bad(format!("schema_version is {}, this build knows {SCHEMA_VERSION}", state.schema_version)));
    }
    let mut parameters: TensorMap = tensors::read(&path.join(PARAMETERS))?;
    let mut set = ParameterSet::new(device);
    for (name, group) in &state.groups {
        let group = group_of(group).ok_or_else(|| bad(format!("`{name}` is in the unknown group `{group}`")))?;
        match parameters.remove(name).map(|tensor| (tensor.shape, tensor.values)) {
            Some((shape, Values::F32(values))) => set.insert(name.clone(), group, &shape, values),
            _ => return Err(bad(format!("{PARAMETERS} lacks `{name}`, or has it in another type"))),
        }
    }
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("{PARAMETERS} has `{name}`, which {STATE} does not know")));
    }
    let optimizer = AdamW::from_map(tensors::read(&path.join(OPTIMIZER))?, &set)
        .map_err(|reason| bad(format!("{OPTIMIZER}: {reason}")))?;
    Ok(Loaded { path: path.to_owned(), state, set, optimizer })
}

const GROUPS: [(Group, &str); 5] = [
    (Group::Lora, "lora"),
    (Group::Prefix, "prefix"),
    (Group::LogGate, "log_gate"),
    (Group::Architecture, "architecture"),
    (Group::Constant, "constant"),
];

fn group_name(group: Group) -> &'static str {
    GROUPS.iter().find(|(known, _)| *known == group).map_or("", |(_, name)| name)
}

fn group_of(name: &str) -> Option<Group> {
    GROUPS.iter().find(|(_, known)| *known == name).map(|(group, _)| *group)
}
