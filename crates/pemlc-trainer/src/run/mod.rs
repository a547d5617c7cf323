//! A run from its run file to its run directory.

mod checkpoint;
mod evaluate;
mod finish;
mod identity;
mod memory;
mod metrics;
mod mixers;
mod prepare;
mod probes;
mod progress;
mod reference;
mod request;
mod schedule;
mod scores;
mod step;

pub(crate) use memory::peak as peak_memory;
pub(crate) use prepare::Base;
pub(crate) use probes::{LENGTH, PER_TASK, Sheet};
pub use request::{TrainOutcome, TrainRequest};
pub(crate) use step::Stepper;

use crate::error::TrainError;
use crate::event::{Event, Next, Observer};
use mixers::Mixers;
use pemlc_artifact::run::Costs;
use prepare::Prepared;
use progress::{Flow, Progress};
use std::sync::atomic::Ordering;

/// Trains, and writes the run directory. `run.json` comes last: a directory without it is no finished run.
///
/// # Errors
/// When anything that a user gave is wrong (before the first step), when a file cannot be written, or when training diverges.
pub fn train(request: TrainRequest, observer: &mut dyn Observer) -> Result<TrainOutcome, TrainError> {
    let run = Prepared::new(&request, observer)?;
    let mixers = Mixers::new(&run)?;
    let mut progress = Progress::new(&run, &request)?;
    let steps = run.config.total_steps();
    observer.event(Event::Started {
        trainable_parameters: progress.set.count(),
        base_parameters: run.backbone.parameters(),
        tasks: run.tasks.tasks.iter().map(|task| task.name.clone()).collect(),
        device: run.device_name.clone(),
        resumed_at: request.resume.then_some(progress.done),
        steps,
    });
    progress.announce(&run, observer);
    loop {
        if let Flow::Stop = progress.advance(&run, &request.stop, observer)? {
            return Ok(TrainOutcome::Interrupted { checkpoint: progress.newest });
        }
        if progress.done >= steps {
            break;
        }
        let rung = progress.done > 0 && request.score_at.contains(&progress.done);
        if rung && progress.score(&run, &request.stop, observer) == Next::Stop {
            let costs = Box::new(Costs { trainable_parameters: progress.set.count(), ..progress.costs });
            return Ok(TrainOutcome::Stopped { step: progress.done, costs });
        }
        if request.stop.load(Ordering::Relaxed) {
            let checkpoint = match progress.done {
                0 => None,
                _ => Some(progress.save(&run, observer)?),
            };
            return Ok(TrainOutcome::Interrupted { checkpoint });
        }
        progress.step(&run, &mixers, observer)?;
        if progress.is_save_due(&run) {
            progress.save(&run, observer)?;
        }
    }
    let lora_step_seconds = reference::lora_step_seconds(&run, &mixers);
    let stage = progress.last_stage(&run);
    let Progress { methods, set, mut costs, mut metrics, newest, stages, done, .. } = progress;
    costs.lora_step_seconds = lora_step_seconds;
    let trained = finish::Trained { methods: &methods, set: &set, stages, stage, steps: done };
    let outcome = finish::finish(&run, trained, costs, &mut metrics, &request.stop, observer)?;
    Ok(outcome.unwrap_or(TrainOutcome::Interrupted { checkpoint: newest }))
}
