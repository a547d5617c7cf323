//! `pemlc train`.

use crate::arguments::TrainArguments;
use crate::progress::Progress;
use crate::report::Material;
use crate::run_file::{self, RunFile};
use crate::table::{Table, bytes, score, seconds};
use crate::{Outcome, interrupt};
use anyhow::Context;
use pemlc_trainer::device::DeviceChoice;
use pemlc_trainer::{TrainError, TrainOutcome, TrainRequest};
use std::path::Path;

pub(crate) fn run(arguments: &TrainArguments) -> anyhow::Result<Outcome> {
    let mut file = RunFile::read(&arguments.config, &arguments.overrides.set)?;
    if let Some(path) = &arguments.architecture {
        // Relative to where the command was given, unlike paths in the run file.
        let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
        file.config.prefix.architecture = Some(path.display().to_string());
    }
    let output = match (&arguments.output, &file.config.output) {
        (Some(output), _) => output.clone(),
        (None, Some(output)) => pemlc_data::expand_path(output, &file.folder).context("output")?,
        (None, None) => {
            anyhow::bail!("no run directory: set `output` in {} or give --output", arguments.config.display())
        }
    };
    let stop = interrupt::flag()?;
    let mut progress = Progress::new();
    let request = TrainRequest {
        config: file.config,
        config_dir: file.folder,
        output: output.clone(),
        device: arguments.device,
        resume: arguments.resume,
        score_at: Vec::new(),
        stop,
    };
    let outcome = pemlc_trainer::train(request, &mut progress);
    progress.finish();
    let outcome = outcome.map_err(|error| {
        let of_model = matches!(error, TrainError::Model(_));
        let error = anyhow::Error::new(error);
        if of_model { error.context(run_file::NO_MODEL) } else { error }
    })?;
    match outcome {
        TrainOutcome::Finished(_) => {
            let report = super::report::write(&output, None, None)?;
            print!("\n{}", summary(&output)?);
            println!("run: {}\nreport: {}", output.display(), report.display());
            Ok(Outcome::Done)
        }
        TrainOutcome::Stopped { step, .. } => {
            anyhow::bail!("training stopped after step {step}, which nobody asked for")
        }
        TrainOutcome::Interrupted { checkpoint } => {
            match checkpoint {
                Some(path) => {
                    let command = resume_command(arguments, &output);
                    eprintln!(
                        "interrupted; everything up to now is saved in {}. To go on:\n  {command}",
                        path.display()
                    );
                }
                None => eprintln!("interrupted before the first step: there is nothing to resume"),
            }
            Ok(Outcome::Interrupted)
        }
    }
}

/// The scores, and what they cost.
fn summary(output: &Path) -> anyhow::Result<String> {
    let material = Material::read(output, None)?;
    let run = material.run();
    let mut table = Table::new(&["task", "metric", ">base", ">trained", ">examples"]);
    for task in &run.tasks {
        let errors = material.errors(&task.name);
        table.row([
            task.name.clone(),
            task.metric.clone(),
            score(task.base_score, errors.base),
            score(task.score, errors.trained),
            task.validation_examples.to_string(),
        ]);
    }
    let costs = &run.costs;
    Ok(format!(
        "{}\nsearch {}, training {}, evaluation {}, peak memory {}\n",
        table.render(),
        seconds(costs.search_seconds),
        seconds(costs.training_seconds),
        seconds(costs.evaluation_seconds),
        bytes(costs.peak_memory_bytes)
    ))
}

/// The command that continues this run, with everything that shaped it.
fn resume_command(arguments: &TrainArguments, output: &Path) -> String {
    let mut words = vec!["pemlc".to_owned(), "train".to_owned(), arguments.config.display().to_string()];
    words.extend(["--output".to_owned(), output.display().to_string()]);
    if arguments.device != DeviceChoice::Auto {
        words.extend(["--device".to_owned(), arguments.device.to_string()]);
    }
    if let Some(path) = &arguments.architecture {
        words.extend(["--architecture".to_owned(), path.display().to_string()]);
    }
    for set in &arguments.overrides.set {
        words.extend(["--set".to_owned(), set.clone()]);
    }
    words.push("--resume".to_owned());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// `word` as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Overrides;

    #[test]
    fn the_resume_command_can_be_pasted() {
        let arguments = TrainArguments {
            config: "my run.toml".into(),
            output: None,
            device: DeviceChoice::Cpu,
            architecture: Some("cell.json".into()),
            resume: false,
            overrides: Overrides { set: vec!["training.steps=5".to_owned(), "tasks.0.name='it'".to_owned()] },
        };
        insta::assert_snapshot!(
            resume_command(&arguments, Path::new("runs/a")),
            @r"pemlc train 'my run.toml' --output runs/a --device cpu --architecture cell.json --set training.steps=5 --set 'tasks.0.name='\''it'\''' --resume"
        );
    }
}
