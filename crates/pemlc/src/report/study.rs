//! The report page of a study: its trials, what their parameters did, the best one, and what all of them cost.

use super::svg::{escape, points, tick_label, ticks};
use super::{cell, document};
use crate::table::{count, seconds};
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::RunManifest;
use pemlc_study::{Distribution, Space, Trial, TrialState, best_trial};
use std::collections::BTreeMap;

/// What the page is made of.
pub(crate) struct Study<'a> {
    pub(crate) name: &'a str,
    pub(crate) space: &'a Space,
    pub(crate) trials: &'a [Trial],
    /// `run.json` of the trials whose run directories are at hand.
    pub(crate) runs: BTreeMap<u64, RunManifest>,
    /// The cell of the best trial, if it has one.
    pub(crate) cell: Option<Architecture>,
    /// A parameter's value in words.
    pub(crate) written: fn(&Distribution, f64) -> String,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 32.0;

impl Study<'_> {
    /// The page as HTML.
    pub(crate) fn page(&self) -> String {
        let states = |state| self.trials.iter().filter(|trial| trial.state == state).count();
        let facts = format!(
            "{} finished · {} stopped early · {} failed · {} running",
            states(TrialState::Complete),
            states(TrialState::Pruned),
            states(TrialState::Fail),
            states(TrialState::Running)
        );
        let sections = [
            ("Mean score by trial", self.values()),
            ("Score by parameter", self.parameters()),
            ("The best trial", self.best_section()),
            (
                "Its prompt encoder",
                self.cell.as_ref().map(|cell| format!("<div class=\"scroll\">{}</div>\n", cell::diagram(cell))),
            ),
            ("All trials", Some(self.table())),
            ("Costs of all trials", self.costs()),
        ];
        document(&format!("Study {}", escape(self.name)), &facts, sections, env!("CARGO_PKG_VERSION"))
    }

    /// Its value or, where it was stopped early, its last one.
    fn score(trial: &Trial) -> Option<f64> {
        trial.value.or_else(|| trial.intermediate.values().last().copied()).filter(|value| value.is_finite())
    }

    /// Lowest and highest score, apart from each other.
    fn range(&self) -> Option<(f64, f64)> {
        let scores = || self.trials.iter().filter_map(Self::score);
        let (low, high) = (scores().fold(f64::INFINITY, f64::min), scores().fold(f64::NEG_INFINITY, f64::max));
        let range = if high - low < 1e-9 { (low - 0.05, high + 0.05) } else { (low, high) };
        low.is_finite().then_some(range)
    }

    fn values(&self) -> Option<String> {
        let (low, high) = self.range()?;
        let last = self.trials.iter().map(|trial| trial.number).max().unwrap_or(0).max(1) as f64;
        let x = |number: u64| LEFT + number as f64 / last * (WIDTH - LEFT - RIGHT - 8.0) + 4.0;
        let y = |score: f64| HEIGHT - BOTTOM - (score - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg class=\"wide\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Mean score by trial\">\n"
        );
        for tick in ticks(low, high, 5) {
            svg += &format!(
                "<path class=\"grid\" d=\"M{LEFT} {0:.1}H{1}\"/><text class=\"soft\" x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>\n",
                y(tick),
                WIDTH - RIGHT,
                LEFT - 8.0,
                y(tick) + 4.0,
                tick_label(tick)
            );
        }
        for tick in ticks(0.0, last, 10).into_iter().filter(|tick| tick.fract() == 0.0) {
            svg += &format!(
                "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>\n",
                x(tick as u64),
                HEIGHT - 10.0
            );
        }
        let mut best = f64::NEG_INFINITY;
        let mut line = Vec::new();
        for trial in self.trials.iter().filter(|trial| trial.state == TrialState::Complete) {
            let Some(score) = Self::score(trial) else { continue };
            if score > best {
                line.extend((best > f64::NEG_INFINITY).then(|| (x(trial.number), y(best))));
                best = score;
            }
            line.push((x(trial.number), y(best)));
        }
        svg += &format!("<polyline class=\"curve\" points=\"{}\"/>\n", points(line.into_iter()));
        svg += &self.dots(&|trial| Some(x(trial.number)), &y);
        Some(format!(
            "<div class=\"scroll\">{svg}</svg></div>\n<p class=\"note\">Mean over tasks on validation data. The line is the best so far; rings are \
             trials that were stopped early, at their last score.</p>\n"
        ))
    }

    fn dots(&self, x: &dyn Fn(&Trial) -> Option<f64>, y: &dyn Fn(f64) -> f64) -> String {
        let mut svg = String::new();
        for trial in self.trials {
            let (Some(at), Some(score)) = (x(trial), Self::score(trial)) else { continue };
            let look = match trial.state {
                TrialState::Complete => "class=\"trained\"",
                _ => "class=\"base\" fill-opacity=\"0\" stroke-width=\"1.5\"",
            };
            svg += &format!(
                "<circle {look} cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>trial {}: {score:.4}</title></circle>\n",
                y(score),
                trial.number
            );
        }
        svg
    }

    fn parameters(&self) -> Option<String> {
        let (low, high) = self.range()?;
        let (wide, tall) = (270.0, 150.0);
        let y = |score: f64| tall - 22.0 - (score - low) / (high - low) * (tall - 50.0);
        let mut charts = String::new();
        for parameter in self.space.parameters() {
            let share = |value: f64| 56.0 + place(&parameter.distribution, value) * (wide - 90.0);
            let mut svg = format!(
                "<svg viewBox=\"0 0 {wide} {tall}\" role=\"img\" aria-label=\"Score by {0}\"><text x=\"4\" y=\"13\">{0}</text>\
                 <path class=\"grid\" d=\"M42 {1}H{2}\"/>",
                escape(&parameter.name),
                tall - 16.0,
                wide - 8.0
            );
            for (score, text) in [(low, tick_label(low)), (high, tick_label(high))] {
                svg += &format!(
                    "<text class=\"soft\" x=\"38\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                    y(score) + 4.0
                );
            }
            for value in ends(&parameter.distribution) {
                svg += &format!(
                    "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    share(value),
                    tall - 3.0,
                    escape((self.written)(&parameter.distribution, value).trim_matches('"'))
                );
            }
            svg += &self.dots(&|trial| trial.params.get(&parameter.name).map(|value| share(*value)), &y);
            charts += &(svg + "</svg>\n");
        }
        Some(format!("<div class=\"charts\">{charts}</div>\n"))
    }

    fn settings(&self, trial: &Trial) -> String {
        let parameters = self.space.parameters().iter();
        let set = parameters.filter_map(|parameter| {
            let value = *trial.params.get(&parameter.name)?;
            Some(format!("{}={}", parameter.name, (self.written)(&parameter.distribution, value)))
        });
        set.collect::<Vec<_>>().join(" ")
    }

    fn best_section(&self) -> Option<String> {
        let trial = best_trial(self.trials)?;
        let mut html = format!(
            "<p>Trial {}, {:.4}: <code>{}</code></p>\n",
            trial.number,
            trial.value.unwrap_or(f64::NAN),
            escape(&self.settings(trial))
        );
        if let Some(run) = self.runs.get(&trial.number) {
            let rows: String = run
                .tasks
                .iter()
                .map(|task| {
                    let value = |score: Option<f64>| score.map_or_else(|| "-".to_owned(), |score| format!("{score:.3}"));
                    // 95 % of a normal distribution.
                    let interval = task.standard_error.map_or_else(String::new, |error| format!(" ± {:.3}", 1.96 * error));
                    format!(
                        "<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}{interval}</td></tr>\n",
                        escape(&task.name),
                        escape(&task.metric),
                        value(task.base_score),
                        value(task.score)
                    )
                })
                .collect();
            html += &format!(
                "<div class=\"scroll\"><table>\n<tr><th>Task</th><th>Metric</th><th class=\"number\">Base</th><th class=\"number\">Trained \
                 (95 %)</th></tr>\n{rows}</table></div>\n"
            );
        }
        Some(html)
    }

    fn table(&self) -> String {
        let mut rows = String::new();
        for trial in self.trials {
            let busy = self.runs.get(&trial.number).map(|run| {
                let costs = &run.costs;
                seconds(
                    costs.search_seconds + costs.training_seconds + costs.retraining_seconds + costs.evaluation_seconds,
                )
            });
            rows += &format!(
                "<tr><td class=\"number\">{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td><code>{}</code></td></tr>\n",
                trial.number,
                trial.state.name().to_lowercase(),
                Self::score(trial).map_or_else(|| "-".to_owned(), |score| format!("{score:.4}")),
                busy.unwrap_or_else(|| "-".to_owned()),
                escape(&self.settings(trial))
            );
        }
        format!(
            "<div class=\"scroll\"><table>\n<tr><th class=\"number\">Trial</th><th>State</th><th class=\"number\">Score</th>\
             <th class=\"number\">Time</th><th>Settings</th></tr>\n{rows}</table></div>\n"
        )
    }

    fn costs(&self) -> Option<String> {
        if self.runs.is_empty() {
            return None;
        }
        let sum = |cost: fn(&RunManifest) -> f64| self.runs.values().map(cost).sum::<f64>();
        let busy =
            |run: &RunManifest| run.costs.search_seconds + run.costs.training_seconds + run.costs.retraining_seconds;
        let total: f64 = self.runs.values().map(busy).sum();
        let mut facts = vec![
            ("Runs at hand", self.runs.len().to_string()),
            ("Search", seconds(sum(|run| run.costs.search_seconds))),
            ("Training", seconds(sum(|run| run.costs.training_seconds))),
            ("Retraining", seconds(sum(|run| run.costs.retraining_seconds))),
            ("Evaluation", seconds(sum(|run| run.costs.evaluation_seconds))),
            ("Accelerator", seconds(sum(|run| run.costs.device_seconds))),
            ("Optimiser steps", count(sum(|run| run.costs.optimizer_steps as f64) as u64)),
            ("Tokens, forward and backward", count(sum(|run| run.costs.tokens as f64) as u64)),
        ];
        // Of a run that stands for all: total cost over one plain LoRA run of its steps.
        let one = self.runs.values().find_map(|run| Some(busy(run) / run.costs.relative_to_lora?));
        if let Some(lora) = one.filter(|seconds| *seconds > 0.0) {
            facts.push(("All over one LoRA run", format!("{:.1}x", total / lora)));
        }
        let list: String =
            facts.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect();
        Some(format!("<dl>\n{list}</dl>\n"))
    }
}

/// Where `value` lies between the ends, 0 to 1.
fn place(distribution: &Distribution, value: f64) -> f64 {
    let within = |low: f64, high: f64, log: bool| {
        let scale = |value: f64| if log { value.ln() } else { value };
        let span = scale(high) - scale(low);
        if span > 0.0 { ((scale(value) - scale(low)) / span).clamp(0.0, 1.0) } else { 0.5 }
    };
    match distribution {
        Distribution::Float { low, high, log } => within(*low, *high, *log),
        Distribution::Int { low, high, log, .. } => within(*low as f64, *high as f64, *log),
        Distribution::Categorical { choices } => within(0.0, choices.len().saturating_sub(1) as f64, false),
    }
}

/// The values that an axis shows.
fn ends(distribution: &Distribution) -> Vec<f64> {
    match distribution {
        Distribution::Float { low, high, .. } => vec![*low, *high],
        Distribution::Int { low, high, .. } => vec![*low as f64, *high as f64],
        Distribution::Categorical { choices } => (0..choices.len()).map(|index| index as f64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_study::Parameter;

    #[test]
    fn the_page_has_every_trial_and_the_best_one() {
        let parameter = |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None };
        let space = Space::new(vec![
            parameter("lora.rank", Distribution::Categorical { choices: vec![4.into(), 8.into()] }),
            parameter("training.learning_rate", Distribution::Float { low: 1e-5, high: 1e-3, log: true }),
        ])
        .expect("a space");
        let trial = |number, state, value, intermediate: &[(u64, f64)]| Trial {
            number,
            state,
            params: [("lora.rank".to_owned(), 1.0), ("training.learning_rate".to_owned(), 1e-4)].into(),
            value,
            intermediate: intermediate.iter().copied().collect(),
        };
        let trials = [
            trial(0, TrialState::Complete, Some(0.5), &[]),
            trial(1, TrialState::Pruned, None, &[(3, 0.4)]),
            trial(2, TrialState::Complete, Some(0.7), &[]),
            trial(3, TrialState::Fail, None, &[]),
            // As good as the best, and later.
            trial(4, TrialState::Complete, Some(0.7), &[]),
        ];
        let written = |distribution: &Distribution, value: f64| match distribution {
            Distribution::Categorical { choices } => choices[value as usize].to_string(),
            _ => format!("{value:?}"),
        };
        let study = Study { name: "a<b", space: &space, trials: &trials, runs: BTreeMap::new(), cell: None, written };
        let page = study.page();
        assert!(page.contains("Study a&lt;b") && page.contains("3 finished · 1 stopped early · 1 failed · 0 running"));
        assert!(page.contains("Trial 2, 0.7000: <code>lora.rank=8 training.learning_rate=0.0001</code>"), "{page}");
        // Four scores in the overview and in each of two charts.
        assert_eq!(page.matches("<circle").count(), 12);
        assert!((place(&space.parameters()[1].distribution, 1e-4) - 0.5).abs() < 1e-12);
    }
}
