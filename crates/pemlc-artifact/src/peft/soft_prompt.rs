//! Soft prompts: prompt tuning, P-tuning, and multitask prompt tuning.

use super::{Config, PeftError, weights_path};
use crate::config::ModelConfig;
use crate::tensors::Taking;
use std::path::Path;

/// The methods whose folders hold vectors that stand in front of the token embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoftPromptKind {
    /// `PROMPT_TUNING`.
    PromptTuning,
    /// `P_TUNING`: PEFT stores what its encoder came to.
    PTuning,
    /// `MULTITASK_PROMPT_TUNING`: a prompt that tasks share, times a low-rank product of each.
    Multitask,
}

impl SoftPromptKind {
    /// `peft_type`.
    pub fn peft_type(self) -> &'static str {
        match self {
            Self::PromptTuning => "PROMPT_TUNING",
            Self::PTuning => "P_TUNING",
            Self::Multitask => "MULTITASK_PROMPT_TUNING",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::PromptTuning, Self::PTuning, Self::Multitask];
}

/// Reads the prompt in `directory`, `[length, hidden]` row-major: of its task `task`, where it holds several.
pub fn read_soft_prompt(
    directory: &Path,
    kind: SoftPromptKind,
    model: &ModelConfig,
    task: Option<usize>,
) -> Result<Vec<f32>, PeftError> {
    let config = Config::read(directory, kind.peft_type())?;
    config.refuse_modules_to_save()?;
    config.check_one_submodule()?;
    let (length, hidden) = (config.virtual_tokens()?, model.hidden_size);
    let path = weights_path(directory)?;
    let mut file = Taking::open(&path)?;
    let mut prompt = file.f32("prompt_embeddings", &[length, hidden])?;
    if kind == SoftPromptKind::Multitask {
        let tasks = config.integer("num_tasks")?;
        let ranks = config.integer("num_ranks")?;
        let task = match task {
            Some(task) if task < tasks => task,
            None if tasks == 1 => 0,
            Some(task) => {
                return Err(
                    config.unsupported(&format!("it holds {tasks} tasks, counted from 0: there is no task {task}"))
                );
            }
            None => {
                let reason = format!("it holds {tasks} tasks: say which with #INDEX behind the folder, counted from 0");
                return Err(config.unsupported(&reason));
            }
        };
        let columns = file.f32("prefix_task_cols", &[tasks, length, ranks])?;
        let rows = file.f32("prefix_task_rows", &[tasks, ranks, hidden])?;
        let columns = &columns[task * length * ranks..(task + 1) * length * ranks];
        let rows = &rows[task * ranks * hidden..(task + 1) * ranks * hidden];
        for (vector, columns) in prompt.chunks_exact_mut(hidden).zip(columns.chunks_exact(ranks)) {
            for (place, value) in vector.iter_mut().enumerate() {
                let product = columns.iter().zip(rows.chunks_exact(hidden)).map(|(column, row)| column * row[place]);
                *value *= product.sum::<f32>();
            }
        }
    } else if let Some(task) = task {
        return Err(config.unsupported(&format!("#{task}: only multitask prompt tuning holds several tasks")));
    }
    file.finish()?;
    if let Some(value) = prompt.iter().find(|value| !value.is_finite()) {
        return Err(PeftError::unsupported(&path, format!("`prompt_embeddings` holds {value}")));
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use super::super::{CONFIG, WEIGHTS};
    use super::*;
    use crate::tensors::{self, NamedTensor, TensorMap};
    use serde_json::json;

    fn folder(kind: SoftPromptKind, tasks: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "peft_type": kind.peft_type(), "num_virtual_tokens": 2, "num_transformer_submodules": 1, "token_dim": 8,
            "num_tasks": tasks, "num_ranks": 2,
        });
        std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        let counted = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            NamedTensor::f32(shape.to_vec(), (0..count).map(|n| n as f32).collect())
        };
        let mut map = TensorMap::from([("prompt_embeddings".to_owned(), counted(&[2, 8]))]);
        if kind == SoftPromptKind::Multitask {
            map.insert("prefix_task_cols".to_owned(), counted(&[tasks, 2, 2]));
            map.insert("prefix_task_rows".to_owned(), counted(&[tasks, 2, 8]));
        }
        tensors::write(&folder.path().join(WEIGHTS), &map).unwrap();
        folder
    }

    #[test]
    fn prompts_as_they_are_stored() {
        for kind in [SoftPromptKind::PromptTuning, SoftPromptKind::PTuning] {
            let prompt = read_soft_prompt(folder(kind, 1).path(), kind, &model(), None).unwrap();
            assert_eq!(prompt, (0..16).map(|n| n as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_prompt_of_one_of_several_tasks() {
        let kind = SoftPromptKind::Multitask;
        let prompt = read_soft_prompt(folder(kind, 2).path(), kind, &model(), Some(1)).unwrap();
        // Columns of task 1 are [4 5; 6 7], its rows [16..24] and [24..32]; vector 1, place 3: 11 * (6 * 19 + 7 * 27).
        assert_eq!(prompt[11], 11.0 * (6.0 * 19.0 + 7.0 * 27.0));
    }

    #[test]
    fn prompts_that_do_not_fit_are_refused() {
        let error = |kind, tasks, task, model: &ModelConfig| {
            let folder = folder(kind, tasks);
            let error = read_soft_prompt(folder.path(), kind, model, task).unwrap_err().to_string();
            error.replace(&folder.path().display().to_string(), "FOLDER")
        };
        let wide = ModelConfig { hidden_size: 12, ..model() };
        insta::assert_snapshot!(
            [
                error(SoftPromptKind::PromptTuning, 1, None, &wide),
                error(SoftPromptKind::PromptTuning, 1, Some(0), &model()),
                error(SoftPromptKind::Multitask, 2, None, &model()),
                error(SoftPromptKind::Multitask, 2, Some(2), &model()),
            ].join("\n"), @"
FOLDER/adapter_model.safetensors: tensor `prompt_embeddings` is f32 [2, 8], expected f32 [2, 12]
FOLDER/adapter_config.json: #0: only multitask prompt tuning holds several tasks
FOLDER/adapter_config.json: it holds 2 tasks: say which with #INDEX behind the folder, counted from 0
FOLDER/adapter_config.json: it holds 2 tasks, counted from 0: there is no task 2
");
    }
}
