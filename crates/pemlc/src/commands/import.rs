//! `pemlc import`: PEFT folders to a run directory.

use crate::Outcome;
use crate::arguments::ImportArguments;
use crate::table::{Table, count};
use anyhow::{Context, bail};
use pemlc_trainer::import::{Folder, ImportRequest, ImportTask, Imported};

/// The request as it is.
const IDENTITY: &str = "{text}";

pub(crate) fn run(arguments: &ImportArguments) -> anyhow::Result<Outcome> {
    let request = ImportRequest {
        base: arguments.base.clone(),
        tasks: tasks(arguments)?,
        probe_texts: arguments.probe_text.clone(),
        output: arguments.out.clone(),
        force: arguments.force,
    };
    let imported = pemlc_trainer::import::import(&request, &mut |line| eprintln!("{line}"))?;
    for note in &imported.notes {
        eprintln!("note: {note}");
    }
    print!("\n{}", summary(&imported));
    let out = arguments.out.display();
    println!("\nrun: {out}\nnext: pemlc export {out} ARTIFACT");
    Ok(Outcome::Done)
}

/// Tasks in the order in which they are named first.
fn tasks(arguments: &ImportArguments) -> anyhow::Result<Vec<ImportTask>> {
    let mut tasks: Vec<ImportTask> = Vec::new();
    for text in &arguments.task {
        let (name, folder) = split("--task", text, "NAME=DIR")?;
        let folder = Folder::parse(folder);
        match tasks.iter_mut().find(|task| task.name == name) {
            Some(task) => task.folders.push(folder),
            None => tasks.push(ImportTask {
                name: name.to_owned(),
                folders: vec![folder],
                template: IDENTITY.to_owned(),
                verbalizers: Vec::new(),
            }),
        }
    }
    for text in &arguments.template {
        let (name, template) = split("--template", text, "NAME=TEXT")?;
        template.clone_into(&mut named(&mut tasks, "--template", name)?.template);
    }
    for text in &arguments.verbalizers {
        let (name, list) = split("--verbalizers", text, "NAME=LIST")?;
        let answers: Vec<String> = serde_json::from_str(list).with_context(|| {
            format!("--verbalizers {text}: expected a JSON list of texts, for instance {name}=[\" no\", \" yes\"]")
        })?;
        if answers.len() < 2 || answers.iter().any(String::is_empty) {
            bail!("--verbalizers {text}: expected two answers or more, none of them empty");
        }
        named(&mut tasks, "--verbalizers", name)?.verbalizers = answers;
    }
    Ok(tasks)
}

fn split<'a>(option: &str, text: &'a str, form: &str) -> anyhow::Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        _ => bail!("{option} {text}: expected {form}"),
    }
}

fn named<'a>(tasks: &'a mut [ImportTask], option: &str, name: &str) -> anyhow::Result<&'a mut ImportTask> {
    let known: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let task = tasks.iter_mut().find(|task| task.name == name);
    task.with_context(|| format!("{option} names `{name}`, which is no --task; those are {}", known.join(", ")))
}

fn summary(imported: &Imported) -> String {
    let mut table = Table::new(&["task", "adapters", ">rank", ">modules", ">rows", ">trained numbers"]);
    for task in &imported.tasks {
        let rank = match task.ranks {
            None => "-".to_owned(),
            Some((low, high)) if low == high => low.to_string(),
            Some((low, high)) => format!("{low}-{high}"),
        };
        let dash = |number: usize| if number == 0 { "-".to_owned() } else { number.to_string() };
        table.row([
            task.name.clone(),
            task.kinds.join(" + "),
            rank,
            dash(task.modules),
            dash(task.rows),
            count(task.parameters),
        ]);
    }
    table.render()
}
