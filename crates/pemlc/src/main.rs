//! `pemlc`: the command line. It parses arguments, shows progress, prints tables and sets exit codes; the work is in the libraries.
#![forbid(unsafe_code)]

#[macro_use]
mod output;

mod arguments;
mod commands;
mod interrupt;
mod overrides;
mod progress;
mod report;
mod run_file;
mod table;

use arguments::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// How a command ended, other than by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// What was asked for is done.
    Done,
    /// It was carried out, and the answer is no: a check or a comparison that does not pass.
    Failed,
    /// Ctrl-C, with everything saved.
    Interrupted,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::Import(arguments) => commands::import::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Evaluate(arguments) => commands::evaluate::run(&arguments),
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Diff(arguments) => commands::diff::run(&arguments),
        Command::Snapshot(arguments) => commands::snapshot::run(&arguments),
        Command::Tasks(arguments) => commands::tasks::run(&arguments),
        Command::Search(arguments) => commands::search::run(&arguments),
        Command::Methods => commands::methods::run(),
        Command::Compare(arguments) => commands::compare::run(&arguments),
        Command::Report(arguments) => commands::report::run(&arguments),
        Command::Schemas(arguments) => commands::schemas::run(&arguments),
    };
    match (result, output::failure()) {
        (Err(error), _) => {
            eprintln!("error: {}", chain(&error).join("\n  caused by: "));
            ExitCode::FAILURE
        }
        (Ok(_), Some(failure)) => {
            eprintln!("error: cannot write to standard output: {failure}");
            ExitCode::FAILURE
        }
        (Ok(Outcome::Done), None) => ExitCode::SUCCESS,
        (Ok(Outcome::Failed), None) => ExitCode::FAILURE,
        (Ok(Outcome::Interrupted), None) => ExitCode::from(interrupt::EXIT_CODE),
    }
}

/// An error and its causes, but for those that the message above them already tells.
fn chain(error: &anyhow::Error) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if !messages.last().is_some_and(|above| above.contains(&message)) {
            messages.push(message);
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    #[test]
    fn causes_are_told_once() {
        let result: anyhow::Result<()> = Err(anyhow::anyhow!("no such file"));
        let error = result.context("cannot read a.toml: no such file").context("training stopped").err();
        let found = error.as_ref().map(super::chain);
        assert_eq!(found, Some(vec!["training stopped".to_owned(), "cannot read a.toml: no such file".to_owned()]));
    }
}
