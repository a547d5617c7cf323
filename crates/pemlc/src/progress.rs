//! Training as seen on a terminal (a bar with loss, tokens/s and the time left) and elsewhere (plain lines).

use crate::table::{count, score, seconds};
use indicatif::{ProgressBar, ProgressStyle};
use pemlc_trainer::{Event, Observer};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Plain lines come no more often than this, but the first and the last step always have theirs.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows events on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    bar: Option<ProgressBar>,
    /// When the first step of this process ended, and its number: a resumed run does not begin at 0.
    first: Option<(Instant, u64)>,
    last_line: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), bar: None, first: None, last_line: None }
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn step(&mut self, step: u64, steps: u64, message: &str) {
        let (started, first) = *self.first.get_or_insert_with(|| (Instant::now(), step));
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  ETA {eta}");
                let bar = ProgressBar::new(steps).with_position(step);
                // Steps of an earlier process say nothing about the time that is left.
                bar.reset_eta();
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_message(message.to_owned());
            bar.set_position(step);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due || step == steps {
            self.last_line = Some(Instant::now());
            let done = step.saturating_sub(first);
            let left = match done {
                0 => String::new(),
                _ => {
                    let each = started.elapsed().as_secs_f64() / done as f64;
                    format!("  ETA {}", seconds(each * steps.saturating_sub(step) as f64))
                }
            };
            eprintln!("step {step}/{steps}  {message}{left}");
        }
    }
}

impl Observer for Progress {
    fn event(&mut self, event: Event) {
        match event {
            Event::Started { trainable_parameters, base_parameters, tasks, device, resumed_at, steps } => {
                let share = trainable_parameters as f64 / base_parameters.max(1) as f64 * 100.0;
                self.say(&format!(
                    "{} trainable parameters ({share:.2} % of the base model's {}), {steps} steps on {device}, tasks (by task_id): {}",
                    count(trainable_parameters),
                    count(base_parameters),
                    tasks.join(", ")
                ));
                if let Some(step) = resumed_at {
                    self.say(&format!("resumed after step {step}"));
                }
            }
            Event::Phase { name, detail } => {
                if name == "evaluation" {
                    self.finish();
                }
                self.say(&format!("{name}: {detail}"));
            }
            Event::Step { step, steps, loss, tokens_per_second, phase, .. } => {
                self.step(step, steps, &format!("{phase}  loss {loss:.4}  {tokens_per_second:.0} tokens/s"));
            }
            Event::Evaluated { task, metric, score: found, stage } => {
                let which = if stage == "base" { "base model" } else { stage };
                let value = score(Some(found.value), Some(found.standard_error).filter(|error| error.is_finite()));
                self.say(&format!("{which}: {task} {metric} {value}"));
            }
            Event::Checkpoint { path } => self.say(&format!("checkpoint {}", path.display())),
            Event::Architecture(text) => self.say(&text),
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            Event::Finished => self.finish(),
        }
    }
}
