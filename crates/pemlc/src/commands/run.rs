//! `pemlc run`: one request.

use crate::Outcome;
use crate::arguments::RunArguments;
use crate::table::Table;
use anyhow::{Context, bail};
use pemlc_artifact::artifact::ArtifactPaths;
use pemlc_artifact::run::TaskRecord;
use pemlc_data::{Normalize, Request, Template, Tokenizer, ranked, separated};
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
    let template = Template::parse(&task.template).with_context(|| format!("template of task `{}`", task.name))?;
    let answers = answers(task, &template, &arguments.choice)?;
    let normalize = normalize(task)?;
    let prompt = prompt(task, &template, arguments)?;
    // Fixed answers bring along what separates them from the prompt.
    let behind = match task.verbalizers.as_slice() {
        [] => separated(&prompt, task.separator.as_deref(), &answers),
        _ => answers.clone(),
    };
    let request = Request::raw(&tokenizer, prompt, &behind)?;
    let mut session = pemlc_runtime::open(arguments.runtime, &paths.graph(), &OpenOptions::default())?;

    if !answers.is_empty() {
        print!("{}", rank(session.as_mut(), task_id, &request, &answers, normalize)?);
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
fn answers(task: &TaskRecord, template: &Template, choices: &[String]) -> anyhow::Result<Vec<String>> {
    let verbalizers = &task.verbalizers;
    if verbalizers.is_empty() {
        return Ok(choices.to_vec());
    }
    if choices.is_empty() {
        return Ok(verbalizers.clone());
    }
    if !template.shows_choices() {
        let fixed: Vec<String> = verbalizers.iter().map(|answer| format!("{answer:?}")).collect();
        bail!("task `{}` has fixed answers ({}): leave out --choice", task.name, fixed.join(", "));
    }
    match verbalizers.get(..choices.len()) {
        Some(letters) => Ok(letters.to_vec()),
        None => bail!("task `{}` takes at most {} choices, given {}", task.name, verbalizers.len(), choices.len()),
    }
}

/// By what training compared the answers. Where no run file said so, as in artifacts of before it was recorded, a run file's default.
fn normalize(task: &TaskRecord) -> anyhow::Result<Normalize> {
    match &task.normalize {
        None => Ok(Normalize::default_of(task.verbalizers.is_empty())),
        Some(name) => Normalize::from_name(name)
            .with_context(|| format!("task `{}`: normalize is {name:?}, which this pemlc does not know", task.name)),
    }
}

fn prompt(task: &TaskRecord, template: &Template, arguments: &RunArguments) -> anyhow::Result<String> {
    let text = arguments.text.clone().unwrap_or_default();
    if arguments.raw {
        return Ok(text);
    }
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
    Ok(template.fill(fields, &arguments.choice)?)
}

fn split(field: &str) -> anyhow::Result<(String, String)> {
    let (name, text) = field.split_once('=').with_context(|| format!("--field {field}: expected FIELD=TEXT"))?;
    Ok((name.trim().to_owned(), text.to_owned()))
}

/// The answers with their scores, as training has them, and their probabilities by these among each other, the likeliest first.
fn rank(
    session: &mut dyn Session,
    task_id: i64,
    request: &Request,
    answers: &[String],
    normalize: Normalize,
) -> anyhow::Result<String> {
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
    let characters: Vec<usize> = answers.iter().map(|answer| answer.chars().count()).collect();
    let scores = normalize.scores(&sums, &request.answers, &characters);
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let column = match normalize {
        Normalize::None => ">log-likelihood",
        Normalize::Tokens => ">log-likelihood per token",
        Normalize::Characters => ">log-likelihood per character",
    };
    let mut table = Table::new(&["answer", ">probability", column]);
    for index in ranked(&scores) {
        let (Some(answer), Some(score)) = (answers.get(index), scores.get(index)) else { continue };
        table.row([answer.trim().to_owned(), format!("{:.4}", (score - largest).exp() / total), format!("{score:.3}")]);
    }
    Ok(table.render())
}
