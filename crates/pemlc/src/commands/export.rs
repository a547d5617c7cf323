//! `pemlc export`.

use crate::Outcome;
use crate::arguments::ExportArguments;
use crate::table::{bytes, seconds};
use pemlc_compiler::ExportOptions;
use std::time::Instant;

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let options = ExportOptions { force: arguments.force };
    let manifest =
        pemlc_compiler::export(&arguments.run, arguments.base.as_deref(), &arguments.out, &options, &mut |line| {
            eprintln!("{line}")
        })?;
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
    super::report::write(&arguments.run, Some(&arguments.out), None)?;
    Ok(outcome)
}
