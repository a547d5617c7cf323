//! `pemlc export`.

use crate::Outcome;
use crate::arguments::{Also, Explain, ExportArguments};
use crate::table::{Table, bytes, seconds};
use anyhow::{Context, bail};
use pemlc_artifact::artifact::Approximation;
use pemlc_artifact::run::{RunManifest, RunPaths, TaskRecord};
use pemlc_compiler::outputs::Extras;
use pemlc_compiler::passes::{LowerTaskSwitch, PipelineOptions};
use pemlc_compiler::target::Target;
use pemlc_compiler::trace::PrintAfter;
use pemlc_compiler::{ExportOptions, Exported};
use pemlc_data::{Request, Template, Tokenizer};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let options = ExportOptions {
        force: arguments.force,
        pipeline: PipelineOptions {
            switch: LowerTaskSwitch {
                lowering: arguments.task_switch,
                workloads: arguments.optimize_for.clone(),
                ..LowerTaskSwitch::default()
            },
            precision: arguments.dtype,
            target: Target {
                operators: arguments.target,
                opset: arguments.opset.unwrap_or_else(|| arguments.dtype.lowest_opset(arguments.target)),
            },
        },
        extras: extras(&arguments.run, &arguments.also)?,
        include_base: arguments.include_base,
        rank_tolerance: arguments.rank_tolerance,
        print_after: match arguments.print_after.as_slice() {
            [] => PrintAfter::Nothing,
            names if names.iter().any(|name| name == "all") => PrintAfter::Everything,
            names => PrintAfter::Passes(names.to_vec()),
        },
    };
    let Exported { manifest, traces, .. } =
        pemlc_compiler::export(&arguments.run, arguments.base.as_deref(), &arguments.out, &options, &mut |line| {
            eprintln!("{line}")
        })?;
    for trace in &traces {
        for (pass, text) in &trace.printed {
            println!("{} after {pass}:\n{text}", trace.file);
        }
        if let Some(detail) = arguments.explain {
            println!("{}", trace.explain(detail == Explain::All));
        }
    }
    if let Some(approximation) = &manifest.approximation {
        println!("{}", describe(approximation));
    }
    let size = manifest.files.iter().map(|file| file.bytes).sum();
    println!(
        "{}: {} for {} (task_id order), {}, written in {}",
        arguments.out.display(),
        manifest.base_model,
        manifest.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", "),
        bytes(size),
        seconds(started.elapsed().as_secs_f64())
    );
    let outcome = if arguments.no_check {
        let dir = arguments.out.display();
        println!("\nNOT VALIDATED: no runtime has run this graph. Before you use it: pemlc check {dir}");
        Outcome::Done
    } else {
        super::check::check(&arguments.out, &arguments.check)?
    };
    let report = super::report::write(&arguments.run, Some(&arguments.out), None);
    if let Some(warning) = warning(&arguments.run, report) {
        eprintln!("{warning}");
    }
    Ok(outcome)
}

/// A page that cannot be written takes nothing from the artifact, which is finished and checked.
fn warning(run: &Path, report: anyhow::Result<PathBuf>) -> Option<String> {
    let error = report.err()?;
    Some(format!("warning: the report page of {} does not show this export: {error:#}", run.display()))
}

/// What `--rank-tolerance` left out.
fn describe(approximation: &Approximation) -> String {
    let mut table = Table::new(&["task", ">ranks", ">left", ">share of its delta left out"]);
    for task in &approximation.tasks {
        let share = format!("{:.2} %", 100.0 * task.relative_error);
        table.row([task.task.clone(), task.ranks.to_string(), task.kept.to_string(), share]);
    }
    let sites = match approximation.dropped_sites.as_slice() {
        [] => "every projection that had a delta of a task still has one".to_owned(),
        sites => format!("without any task's delta now: {}", sites.join(", ")),
    };
    format!(
        "--rank-tolerance {}: ranks of tasks' own deltas, the sum over projections\n{}{sites}\nthe check allows {:.1e} from the trainer's \
         logits, in proportion where they exceed 10; its table has what it found\n",
        approximation.rank_tolerance,
        table.render(),
        approximation.logit_tolerance
    )
}

fn extras(run: &Path, also: &[Also]) -> anyhow::Result<Extras> {
    let wants = |what| also.contains(&what);
    Ok(Extras {
        scorer: wants(Also::Scorer).then(|| answers(run)).transpose()?,
        per_task: wants(Also::PerTask),
        task_folders: wants(Also::TaskFolders),
        ort_adapters: wants(Also::OrtAdapters),
    })
}

/// Tokens of every task's answers, as they follow its template.
fn answers(run: &Path) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
    let manifest = RunManifest::read(run)?;
    let path = RunPaths::new(run).tokenizer().join("tokenizer.json");
    let json = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokenizer = Tokenizer::from_json(&json).with_context(|| path.display().to_string())?;
    let of_task = |task| answers_of_task(task, &tokenizer);
    manifest.tasks.iter().map(of_task).collect()
}

/// Two texts stand in for what the template's fields hold: if answers begin otherwise after one than after the other, or take a token
/// back from the prompt, no table of tokens holds for every prompt.
fn answers_of_task(task: &TaskRecord, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    let name = &task.name;
    if task.verbalizers.is_empty() {
        bail!(
            "task `{name}` has no fixed answers, so no scorer can hold them: leave out `scorer`, or score with model.onnx"
        );
    }
    let template = Template::parse(&task.template).with_context(|| format!("template of task `{name}`"))?;
    let after = |text: &str| -> anyhow::Result<Vec<Vec<u32>>> {
        let fields = template.fields().map(|field| (field.to_owned(), text.to_owned())).collect::<Vec<_>>();
        let choices = vec![text.to_owned(); if template.shows_choices() { task.verbalizers.len() } else { 0 }];
        let request = Request::new(tokenizer, &template, fields, &choices, &task.verbalizers)
            .with_context(|| format!("answers of task `{name}`"))?;
        if request.prompt != tokenizer.encode(&request.text)? {
            bail!(
                "task `{name}`: a token spans the end of the prompt and the answer; end the template without a space"
            );
        }
        Ok(request.answers)
    };
    let (first, second) = (after("Once more.")?, after("a 7")?);
    if first != second {
        bail!("task `{name}`: the tokens of its answers depend on the text before; end the template with fixed text");
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_page_that_cannot_be_written_is_a_warning() {
        let run = Path::new("/nowhere/run");
        let text = warning(run, crate::commands::report::write(run, None, None)).unwrap_or_default();
        let expected =
            "warning: the report page of /nowhere/run does not show this export: /nowhere/run is no finished run";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(warning(run, Ok(run.join("report.html"))), None);
    }
}
