//! What can be said of a task before its data is read.

use crate::config::{AnswerSource, Metric, TaskConfig};
use crate::error::TaskProblem;
use crate::template::Template;

impl TaskConfig {
    /// Checks the settings against each other, and parses the template.
    pub(crate) fn check(&self) -> Result<Template, TaskProblem> {
        check_name(&self.name)?;
        let template = Template::parse(&self.template)?;
        let source = self.answer_source(template.shows_choices()).ok_or(TaskProblem::AnswerSource)?;
        if self.verbalizers.len() == 1 {
            return Err(TaskProblem::OneVerbalizer);
        }
        if let Some(index) = self.verbalizers.iter().position(String::is_empty) {
            return Err(TaskProblem::EmptyVerbalizer { number: index + 1 });
        }
        for (key, limit) in [("train_limit", self.train_limit), ("validation_limit", self.validation_limit)] {
            if limit == Some(0) {
                return Err(TaskProblem::ZeroLimit { key });
            }
        }
        self.check_metric(source)?;
        Ok(template)
    }

    fn check_metric(&self, source: AnswerSource<'_>) -> Result<(), TaskProblem> {
        let metric = self.metric();
        let fixed = source == AnswerSource::Verbalizers;
        let free_text = matches!(source, AnswerSource::FreeText(_));
        let missing = match metric {
            Metric::Accuracy if free_text => Some("`verbalizers` or `choices`; free text is scored by `exact_match`"),
            Metric::F1 if !fixed || self.verbalizers.len() != 2 => {
                Some("exactly 2 verbalizers, the second of which is the positive class")
            }
            Metric::Matthews if !fixed => Some("a fixed set of `verbalizers`"),
            Metric::Pearson if !fixed || self.score.is_none() => {
                Some("`verbalizers` (number i stands for the value i - 1) and `score`, the field with the true value")
            }
            Metric::ExactMatch if !free_text => Some("`answer`, the field with a free-text answer"),
            _ => None,
        };
        match missing {
            Some(needs) => Err(TaskProblem::Metric { metric: metric.name(), needs }),
            None if self.score.is_some() && metric != Metric::Pearson => Err(TaskProblem::UnusedScore),
            None => Ok(()),
        }
    }
}

fn check_name(name: &str) -> Result<(), TaskProblem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=64).contains(&name.len())
        || !name.chars().all(allowed)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(TaskProblem::BadName);
    }
    if name.eq_ignore_ascii_case("shared") { Err(TaskProblem::ReservedName) } else { Ok(()) }
}
