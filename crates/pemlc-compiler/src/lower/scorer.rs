//! A prefill-only graph that scores each task's answers: one run, one small output.
//!
//! The log-likelihood of an answer is the sum over its tokens of the log-probability of each after the prompt and the answer's earlier
//! tokens. All answers of a row's task are appended to its prompt at once, as branches: a token of an answer sees the prompt and its own
//! answer's earlier tokens, at the positions that it would have alone. Last tokens need not be read by the model, so where every answer
//! is one token nothing is appended. The head is applied to the few positions that are asked, not to the prompt.

use super::builder::Builder;
use super::decoder::{Trunk, final_norm, head};
use super::mask::Mask;
use super::rotary::Rotary;
use super::task_switch::{TaskInput, TaskSwitch};
use crate::ir::{Comparison, DType, Data, Graph, IrError, Op, Symbol, Tensor, ValueId, ValueType};
use crate::normal_form::NormalForm;
use pemlc_artifact::ModelConfig;
use std::sync::Arc;

/// Tokens of every answer of every task: `[task][answer][token]`, no answer empty.
pub type AnswerTokens = Vec<Vec<Vec<u32>>>;

/// Lowers a scorer: inputs `input_ids`, `attention_mask`, `position_ids` (all i64 `[batch, sequence]`) and `task_id` i64 `[batch]`, output
/// `scores` f32 `[batch, answers]`: log-likelihoods of the task's answers, minus infinity where it has fewer than the most.
pub fn lower_scorer(config: &ModelConfig, normal_form: &NormalForm, answers: &AnswerTokens) -> Result<Graph, IrError> {
    scorer(config, normal_form, answers, TaskInput::Id)
}

/// As [`lower_scorer`], for batches of one task: rows whose `task_id` is another than the first row's are NaN.
pub fn lower_uniform_scorer(
    config: &ModelConfig,
    normal_form: &NormalForm,
    answers: &AnswerTokens,
) -> Result<Graph, IrError> {
    scorer(config, normal_form, answers, TaskInput::FirstRow)
}

fn scorer(
    config: &ModelConfig,
    normal_form: &NormalForm,
    answers: &AnswerTokens,
    task: TaskInput,
) -> Result<Graph, IrError> {
    let mut builder = Builder::new("scorer");
    let b = &mut builder;
    let tables = Tables::new(answers);
    let tokens = ValueType::new(DType::I64, [Symbol::Batch, Symbol::Sequence]);
    let input_ids = b.input("input_ids", tokens.clone());
    let attention_mask = b.input("attention_mask", tokens.clone());
    let position_ids = b.input("position_ids", tokens);
    let switch = TaskSwitch::new(b, normal_form.tasks, task, position_ids)?;
    let mask = Mask::new(b, position_ids, attention_mask)?;
    let prompt = Prompt::new(b, attention_mask, position_ids)?;
    let (ids, positions, mask, asked) = if tables.slots == 0 {
        (input_ids, position_ids, mask, prompt.last_row)
    } else {
        let branches = Branches { tables: &tables, index: switch.index };
        let ids = branches.append(b, "answers.token", &tables.token, input_ids)?;
        let positions = branches.positions(b, position_ids, prompt.last_position)?;
        let (mask, asked) = branches.mask(b, mask, &prompt, positions)?;
        (ids, positions, mask, asked)
    };
    let rotary = Rotary::new(b, config, positions)?;
    let trunk = Trunk::new(b, config, normal_form, switch, rotary, mask)?;
    let (x, _) = trunk.lower(b, ids, None)?;
    // Before the choice, which multiplies what is not asked by zero: normed, no number is too large for f16.
    let x = final_norm(b, config, x)?;
    // A product with rows of the identity: the hidden states of the positions that are asked, [batch, 1 + slots, hidden].
    let x = b.matmul("scorer.asked_states", asked, x)?;
    let logits = head(b, config, "scorer.logits", x)?;
    let axis = b.rank(logits) - 1;
    let log_probabilities = b.node("scorer.log_probabilities", Op::LogSoftmax { axis }, &[logits])?;
    let targets = by_task(b, "answers.target", &tables.target, switch.index)?;
    let picked = b.node("scorer.picked", Op::GatherElements { axis }, &[log_probabilities, targets])?;
    let counted = by_task(b, "answers.counted", &tables.counted, switch.index)?;
    let picked = b.mul("scorer.counted", picked, counted)?;
    let sums = b.node("scorer.sums", Op::ReduceSum { axes: vec![1] }, &[picked])?;
    let sums = b.reshape("scorer.log_likelihoods", sums, &[None, Some(tables.answers)])?;
    let absent = by_task(b, "answers.absent", &tables.absent, switch.index)?;
    let scores = b.add("scores", sums, absent)?;
    b.output(scores);
    Ok(builder.finish())
}

/// Row `task` of a table for each row of the batch.
fn by_task(b: &mut Builder, name: &str, table: &Arc<Tensor>, index: ValueId) -> Result<ValueId, IrError> {
    let constant = b.constant(format!("{name}s"), table)?;
    b.gather(format!("{name}.of_row"), 0, constant, index)
}

/// Where each row's prompt ends, on either side of its padding.
struct Prompt {
    /// f32 `[batch, 1, sequence]`: 1 at the last token, 0 elsewhere.
    last_row: ValueId,
    /// i64 `[batch, 1]`: the last token's position.
    last_position: ValueId,
    /// f32 `[batch, 1, sequence]`: 0 at tokens, the lowest number at padding.
    present: ValueId,
}

impl Prompt {
    fn new(b: &mut Builder, attention_mask: ValueId, position_ids: ValueId) -> Result<Self, IrError> {
        let zero = b.scalar_i64(0)?;
        let rank = b.node("prompt.rank", Op::CumSum { axis: 1 }, &[attention_mask])?;
        let count = b.node("prompt.count", Op::ReduceSum { axes: vec![1] }, &[attention_mask])?;
        let end = b.compare("prompt.from_last", Comparison::GreaterOrEqual, rank, count)?;
        let token = b.compare("prompt.token", Comparison::Greater, attention_mask, zero)?;
        let last = b.node("prompt.last", Op::And, &[end, token])?;
        let last = b.cast("prompt.last_one", DType::I64, last)?;
        let position = b.mul("prompt.last_positions", last, position_ids)?;
        let last_position = b.node("prompt.last_position", Op::ReduceSum { axes: vec![1] }, &[position])?;
        let last_row = b.cast("prompt.last_float", DType::F32, last)?;
        let last_row = b.unsqueeze("prompt.last_row", last_row, &[1])?;
        let (seen, hidden) = (b.scalar_f32(0.0)?, b.scalar_f32(f32::MIN)?);
        let present = b.node("prompt.present", Op::Where, &[token, seen, hidden])?;
        let present = b.unsqueeze("prompt.present_row", present, &[1])?;
        Ok(Self { last_row, last_position, present })
    }
}

/// The answers' tokens behind each row's prompt.
struct Branches<'a> {
    tables: &'a Tables,
    index: ValueId,
}

impl Branches<'_> {
    fn append(&self, b: &mut Builder, name: &str, table: &Arc<Tensor>, x: ValueId) -> Result<ValueId, IrError> {
        let own = by_task(b, name, table, self.index)?;
        b.concat(format!("{name}.appended"), 1, &[x, own])
    }

    fn positions(&self, b: &mut Builder, position_ids: ValueId, last: ValueId) -> Result<ValueId, IrError> {
        let depth = by_task(b, "answers.depth", &self.tables.depth, self.index)?;
        let own = b.add("answers.position", last, depth)?;
        b.concat("answers.position.appended", 1, &[position_ids, own])
    }

    /// The mask over prompt and answers, and rows of the identity that pick the last prompt token and every slot.
    fn mask(
        &self,
        b: &mut Builder,
        mask: Mask,
        prompt: &Prompt,
        positions: ValueId,
    ) -> Result<(Mask, ValueId), IrError> {
        let slots = self.tables.slots;
        let table = |shape: Vec<usize>, value: f32| Arc::new(Tensor::f32_from_fn(shape, |_| value));
        // The prompt sees no answer; answers see the prompt's tokens and their own past.
        let hidden = b.constant("answers.hidden", &table(vec![1, 1, 1, 1, slots], f32::MIN))?;
        let hidden = b.add("answers.hidden_columns", mask.zero_column, hidden)?;
        let top = b.concat("scorer.mask.prompt", 4, &[mask.tokens, hidden])?;
        let rows = b.constant("answers.rows", &table(vec![1, slots, 1], 0.0))?;
        let prompt_columns = b.add("answers.prompt_columns", prompt.present, rows)?;
        let own = by_task(b, "answers.sight", &self.tables.sight, self.index)?;
        let bottom = b.concat("scorer.mask.answers", 2, &[prompt_columns, own])?;
        let bottom = b.unsqueeze("scorer.mask.answer_rows", bottom, &[1, 2])?;
        let tokens = b.concat("scorer.mask", 3, &[top, bottom])?;
        let zero = b.scalar_i64(0)?;
        let zeros = b.mul("scorer.mask.zeros", positions, zero)?;
        let zeros = b.cast("scorer.mask.zeros_float", DType::F32, zeros)?;
        let zero_column = b.unsqueeze("scorer.mask.zero_column", zeros, &[1, 2, 4])?;

        let zero = b.scalar_f32(0.0)?;
        let no_prompt = b.mul("scorer.no_prompt", prompt.last_row, zero)?;
        let prompt_zeros = b.add("scorer.no_prompt.rows", no_prompt, rows)?;
        let identity =
            Tensor::f32_from_fn(vec![slots, slots], |place| if place / slots == place % slots { 1.0 } else { 0.0 });
        let identity = b.constant("answers.identity", &Arc::new(identity))?;
        let batch_zero = b.node("scorer.batch_zero", Op::ReduceSum { axes: vec![2] }, &[no_prompt])?;
        let identity = b.add("answers.identity.rows", batch_zero, identity)?;
        let no_slot = b.constant("answers.no_slot", &table(vec![1, 1, slots], 0.0))?;
        let no_slot = b.add("answers.no_slot.rows", batch_zero, no_slot)?;
        let first = b.concat("scorer.asks.prompt", 2, &[prompt.last_row, no_slot])?;
        let others = b.concat("scorer.asks.answers", 2, &[prompt_zeros, identity])?;
        let asked = b.concat("scorer.asks", 1, &[first, others])?;
        Ok((Mask { tokens, zero_column }, asked))
    }
}

/// What the answers of each task are made of, as constants whose first axis is the task.
struct Tables {
    /// Largest number of answers of a task.
    answers: usize,
    /// Largest number of appended tokens of a task.
    slots: usize,
    /// i64 `[tasks, slots]`: the appended tokens, answer after answer; 0 where there are fewer.
    token: Arc<Tensor>,
    /// i64 `[tasks, slots]`: how far behind the prompt's last token each stands.
    depth: Arc<Tensor>,
    /// f32 `[tasks, slots, slots]`: 0 where a token sees another, the lowest number elsewhere.
    sight: Arc<Tensor>,
    /// i64 `[tasks, 1 + slots, answers]`: the token whose probability counts after the prompt (place 0) or a slot, for each answer.
    target: Arc<Tensor>,
    /// f32 `[tasks, 1 + slots, answers]`: 1 where it counts.
    counted: Arc<Tensor>,
    /// f32 `[tasks, answers]`: 0, or minus infinity where the task has no such answer.
    absent: Arc<Tensor>,
}

impl Tables {
    fn new(tasks: &AnswerTokens) -> Self {
        let answers = tasks.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let appended = |answers: &Vec<Vec<u32>>| answers.iter().map(|answer| answer.len().saturating_sub(1)).sum();
        let slots: usize = tasks.iter().map(appended).max().unwrap_or(0);
        let places = 1 + slots;
        let (mut token, mut depth) = (vec![0i64; tasks.len() * slots], vec![0i64; tasks.len() * slots]);
        let mut sight = vec![f32::MIN; tasks.len() * slots * slots];
        let mut target = vec![0i64; tasks.len() * places * answers];
        let mut counted = vec![0.0f32; tasks.len() * places * answers];
        let mut absent = vec![f32::NEG_INFINITY; tasks.len() * answers];
        for (task, own) in tasks.iter().enumerate() {
            let mut slot = 0;
            for (number, answer) in own.iter().enumerate() {
                absent[task * answers + number] = 0.0;
                let first = slot;
                for (offset, next) in answer.iter().enumerate() {
                    // Place 0 is the prompt's last token, which every answer begins after.
                    let place = if offset == 0 { 0 } else { slot };
                    let at = (task * places + place) * answers + number;
                    (target[at], counted[at]) = (i64::from(*next), 1.0);
                    if offset + 1 < answer.len() {
                        token[task * slots + slot] = i64::from(*next);
                        depth[task * slots + slot] = offset as i64 + 1;
                        for seen in first..=slot {
                            sight[(task * slots + slot) * slots + seen] = 0.0;
                        }
                        slot += 1;
                    }
                }
            }
            // A slot without a token sees itself, so that its softmax is a number.
            for unused in slot..slots {
                sight[(task * slots + unused) * slots + unused] = 0.0;
            }
        }
        let integers = |shape: Vec<usize>, values: Vec<i64>| table(shape, Data::I64(values));
        let floats = |shape: Vec<usize>, values: Vec<f32>| table(shape, Data::F32(values));
        let count = tasks.len();
        Self {
            answers,
            slots,
            token: integers(vec![count, slots], token),
            depth: integers(vec![count, slots], depth),
            sight: floats(vec![count, slots, slots], sight),
            target: integers(vec![count, places, answers], target),
            counted: floats(vec![count, places, answers], counted),
            absent: floats(vec![count, answers], absent),
        }
    }
}

/// The arrays are made with the sizes of their shapes, so there is always a tensor; an empty one stands for none.
fn table(shape: Vec<usize>, data: Data) -> Arc<Tensor> {
    Arc::new(Tensor::new(shape, data).unwrap_or_else(|| Tensor::vector_i64(Vec::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_one_token_append_nothing() {
        let tables = Tables::new(&vec![vec![vec![5], vec![6]], vec![vec![7]]]);
        assert_eq!((tables.answers, tables.slots), (2, 0));
        assert_eq!(tables.target.as_i64().unwrap(), [5, 6, 7, 0]);
        assert_eq!(tables.counted.as_f32().unwrap(), [1.0, 1.0, 1.0, 0.0]);
        assert_eq!(tables.absent.as_f32().unwrap(), [0.0, 0.0, 0.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn longer_answers_are_branches() {
        // Answers "5 6 7" and "8 9": 5, 6 and 8 are read, 5 and 8 after the prompt.
        let tables = Tables::new(&vec![vec![vec![5, 6, 7], vec![8, 9]]]);
        assert_eq!((tables.answers, tables.slots), (2, 3));
        assert_eq!(tables.token.as_i64().unwrap(), [5, 6, 8]);
        assert_eq!(tables.depth.as_i64().unwrap(), [1, 2, 1]);
        let (see, not) = (0.0, f32::MIN);
        assert_eq!(tables.sight.as_f32().unwrap(), [see, not, not, see, see, not, not, not, see]);
        assert_eq!(tables.target.as_i64().unwrap(), [5, 8, 6, 0, 7, 0, 0, 9]);
        assert_eq!(tables.counted.as_f32().unwrap(), [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    }
}
