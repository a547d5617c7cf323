//! `pemlc run`: one request.

use crate::Outcome;
use crate::arguments::RunArguments;
use crate::table::Table;
use anyhow::{Context, bail};
use pemlc_artifact::artifact::ArtifactPaths;
use pemlc_artifact::run::TaskRecord;
use pemlc_data::{Request, Template, Tokenizer};
use pemlc_runtime::{GenerateOptions, OpenOptions, ScoreRow, Session, generate};

/// Tokens generated where nothing else is said.
const MAX_NEW_TOKENS: usize = 16;

pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<Outcome> {
    let manifest = super::open_artifact(&arguments.dir)?;
    let paths = ArtifactPaths::new(&arguments.dir);
    let names: Vec<&str> = manifest.tasks.iter().map(|task| task.name.as_str()).collect();
    let Some(index) = names.iter().position(|name| *name == arguments.task) else {
        bail!("{} has no task `{}`; it has {}", arguments.dir.display(), arguments.task, names.join(", "));
    };
    let (Some(task), task_id) = (manifest.tasks.get(index), i64::try_from(index)?) else {
        bail!("task {index} is out of range")
    };
    if !manifest.validated {
        eprintln!("warning: this artifact is not validated: run `pemlc check {}`", arguments.dir.display());
    }
    let tokenizer_path = paths.root().join("tokenizer.json");
    let json = std::fs::read_to_string(&tokenizer_path)
        .with_context(|| format!("cannot read {}", tokenizer_path.display()))?;
    let tokenizer = Tokenizer::from_json(&json).with_context(|| tokenizer_path.display().to_string())?;
    let answers = answers(task, &arguments.choice)?;
    let request = request(task, arguments, &tokenizer, &answers)?;
    let mut session = pemlc_runtime::open(arguments.runtime, &paths.graph(), &OpenOptions::default())?;

    if !answers.is_empty() {
        print!("{}", rank(session.as_mut(), task_id, &request, &answers)?);
        if arguments.max_new_tokens.is_none() {
            return Ok(Outcome::Done);
        }
        println!();
    }
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        eos_token_ids: manifest.config.eos_token_ids.clone(),
    };
    let generated = generate(session.as_mut(), &request.prompt, task_id, &options, &mut |_| {})?;
    println!("{}", tokenizer.decode(&generated.tokens)?);
    Ok(Outcome::Done)
}

/// The texts to choose from: the task's own, cut to the number of choices when it answers by letter, or else the choices themselves.
fn answers(task: &TaskRecord, choices: &[String]) -> anyhow::Result<Vec<String>> {
    let verbalizers = &task.verbalizers;
    if verbalizers.is_empty() {
        return Ok(choices.iter().map(|choice| format!(" {choice}")).collect());
    }
    if choices.is_empty() {
        return Ok(verbalizers.clone());
    }
    match verbalizers.get(..choices.len()) {
        Some(letters) => Ok(letters.to_vec()),
        None => bail!("task `{}` takes at most {} choices, given {}", task.name, verbalizers.len(), choices.len()),
    }
}

fn request(
    task: &TaskRecord,
    arguments: &RunArguments,
    tokenizer: &Tokenizer,
    answers: &[String],
) -> anyhow::Result<Request> {
    let text = arguments.text.clone().unwrap_or_default();
    if arguments.raw {
        return Ok(Request::raw(tokenizer, text, answers)?);
    }
    let template = Template::parse(&task.template).with_context(|| format!("template of task `{}`", task.name))?;
    if template.shows_choices() && arguments.choice.len() < 2 {
        bail!("the template of task `{}` shows choices: give each with --choice", task.name);
    }
    let mut names: Vec<&str> = template.fields().collect();
    names.dedup();
    let fields: Vec<(String, String)> = match (names.as_slice(), arguments.field.is_empty()) {
        ([name], true) => vec![((*name).to_owned(), text)],
        (_, true) => {
            let example: Vec<String> = names.iter().map(|name| format!("--field {name}=...")).collect();
            bail!(
                "the template of task `{}` has {} fields, so --text is not enough: give {}, or --raw with the whole prompt",
                task.name,
                names.len(),
                example.join(" ")
            )
        }
        (_, false) => arguments.field.iter().map(|field| split(field)).collect::<anyhow::Result<_>>()?,
    };
    Ok(Request::new(tokenizer, &template, fields, &arguments.choice, answers)?)
}

fn split(field: &str) -> anyhow::Result<(String, String)> {
    let (name, text) = field.split_once('=').with_context(|| format!("--field {field}: expected FIELD=TEXT"))?;
    Ok((name.trim().to_owned(), text.to_owned()))
}

/// The answers with their probabilities among each other, the likeliest first.
fn rank(session: &mut dyn Session, task_id: i64, request: &Request, answers: &[String]) -> anyhow::Result<String> {
    let first = request.prompt.len().saturating_sub(1);
    let rows: Vec<ScoreRow> = request
        .answers
        .iter()
        .map(|answer| {
            let seen = answer.len().saturating_sub(1);
            ScoreRow {
                tokens: request.prompt.iter().chain(answer.iter().take(seen)).copied().collect(),
                task_id,
                queries: answer.iter().enumerate().map(|(offset, token)| (first + offset, *token)).collect(),
            }
        })
        .collect();
    let scores = pemlc_runtime::score(session, &rows)?;
    let sums: Vec<f64> = scores.iter().map(|tokens| tokens.iter().map(|token| token.log_probability).sum()).collect();
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = sums.iter().map(|sum| (sum - largest).exp()).sum();
    let mut ranked: Vec<(&String, f64)> = answers.iter().zip(sums).collect();
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1));
    let mut table = Table::new(&["answer", ">probability", ">log-likelihood"]);
    for (answer, sum) in ranked {
        table.row([answer.trim().to_owned(), format!("{:.4}", (sum - largest).exp() / total), format!("{sum:.3}")]);
    }
    Ok(table.render())
}
