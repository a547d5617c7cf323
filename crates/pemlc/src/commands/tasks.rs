//! `pemlc tasks`: everything that training does before it trains.

use crate::Outcome;
use crate::arguments::TasksArguments;
use crate::run_file::RunFile;
use crate::table::Table;
use pemlc_data::{Task, Tokenizer};

pub(crate) fn run(arguments: &TasksArguments) -> anyhow::Result<Outcome> {
    let file = RunFile::read(&arguments.config, &arguments.overrides.set)?;
    let (set, tokenizer) = file.load_tasks()?;
    let mut table = Table::new(&["task_id", "task", "metric", ">training", ">validation", ">longest (tokens)"]);
    for (index, task) in set.tasks.iter().enumerate() {
        let longest = task.train.iter().chain(&task.validation).map(pemlc_data::Example::length).max().unwrap_or(0);
        table.row([
            index.to_string(),
            task.name.clone(),
            task.metric.name().to_owned(),
            task.train.len().to_string(),
            task.validation.len().to_string(),
            longest.to_string(),
        ]);
    }
    print!("{}", table.render());
    for task in &set.tasks {
        print!("\n{}", example(task, &tokenizer)?);
    }
    for warning in &set.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(Outcome::Done)
}

/// The first training example: its prompt as the model sees it, and its answers.
fn example(task: &Task, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let Some(example) = task.train.first() else { return Ok(String::new()) };
    let mut text = format!("{} ({}), prompt of {} tokens:\n", task.name, example.id, example.prompt.len());
    for line in example.text.lines() {
        text.push_str(&format!("  | {line}\n"));
    }
    for (index, answer) in example.answers.iter().enumerate() {
        let mark = if index == example.gold || task.is_free_text() { "answer" } else { "other" };
        text.push_str(&format!("  {mark}: {:?}\n", tokenizer.decode(answer)?));
    }
    Ok(text)
}
