//! Soft prompts: their gradient, and the prefix rows that they come to.

use super::*;
use proptest::prelude::{ProptestConfig, any, proptest};

impl Case {
    /// With a soft prompt of three vectors in the place of the prefix rows.
    fn with_prompt(mut self, seed: u64) -> Self {
        let prompt = Stream::new(seed, "prompt", 0).normal(self.sets * 3 * 8, 1.0);
        self.values.insert("prompt".to_owned(), prompt);
        self
    }
}

#[test]
fn gradients_of_private_prompts_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Qwen2, 2, 0.0).with_prompt(1));
}

#[test]
fn gradients_of_a_shared_prompt_with_dropout_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Llama, 1, 0.3).with_prompt(1));
}

#[test]
fn shards_with_a_prompt_add_up_to_the_whole_batch_with_the_same_dropout() {
    let case = Case::new(Family::Llama, 2, 0.5).with_prompt(1);
    let (input, adaptation) = (case.input(), case.adaptation(&case.values));
    let shards: Vec<_> = (0..3).map(|row| shard::Shard::new(&input, row..row + 1, &case.queries)).collect();
    let parts = shard::each(&shards, |shard| {
        case.backbone.shard_gradient(shard, &case.backbone.ready(&adaptation, DType::F32), 1.0)
    });
    let (loss, gradient) = parts.into_iter().reduce(|x, y| (x.0 + y.0, x.1.add(y.1))).unwrap();
    let (whole_loss, whole) = case.loss(&case.values);
    assert!((loss - whole_loss).abs() < 1e-5, "{loss} {whole_loss}");
    let (found, whole) = (by_name(gradient), by_name(whole));
    assert!(whole.contains_key("prompt"));
    for (name, values) in &whole {
        close(&found[name], values, 1e-5);
    }
}

/// A prompt of the model's own embeddings is the text that it embeds.
#[test]
fn a_prompt_of_token_embeddings_is_those_tokens() {
    let backbone = Backbone::random(&config(Family::Llama), 5, &device(), BaseDtype::F32);
    let ids = [3, 9, 4, 7, 1, 12];
    let whole = Input { rows: 1, length: 6, input_ids: &ids, attention_mask: &[1; 6], task_ids: &[0] };
    let rest = Input { rows: 1, length: 4, input_ids: &ids[2..], attention_mask: &[1; 4], task_ids: &[0] };
    let prompt = Adaptation { prompt: Some(backbone.embeddings(&[3, 9]).unsqueeze()), ..Adaptation::default() };
    let expected = backbone.logits(&whole, &[2, 3, 4, 5], &Adaptation::default());
    close(&backbone.logits(&rest, &[0, 1, 2, 3], &prompt), &expected, 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the parameters, with padding on either side: the prefix rows of a prompt do what the prompt does.
    #[test]
    fn a_folded_prompt_is_the_prompt(seed in any::<u64>(), private_prompt in any::<bool>(), private_deltas in any::<bool>()) {
        let family = if seed % 2 == 0 { Family::Llama } else { Family::Qwen2 };
        let case = Case::new(family, if private_deltas { 2 } else { 1 }, 0.0);
        let sets = if private_prompt { 2 } else { 1 };
        let prompt = tensor(Stream::new(seed, "prompt", 0).normal(sets * 3 * 8, 1.0), [sets, 3, 8]);
        let values = case.values.iter().map(|(name, values)| {
            (name.clone(), Stream::new(seed, name, 1).normal(values.len(), 0.4))
        });
        let deltas = case.adaptation(&values.collect()).deltas;
        let adaptation = Adaptation { deltas, prompt: Some(prompt), ..Adaptation::default() };
        let folded = case.backbone.fold(&adaptation, 2);
        assert!(folded.prompt.is_none());
        let sets = folded.prefix.as_ref().unwrap().key.dims()[0];
        assert_eq!(sets, if private_prompt || private_deltas { 2 } else { 1 });
        let visible: Vec<usize> = (0..15).filter(|&position| case.mask[position] == 1).collect();
        let expected = case.backbone.exact_logits(&case.input(), &visible, &adaptation);
        close(&case.backbone.exact_logits(&case.input(), &visible, &folded), &expected, 1e-5);
        // The training path computes in f32: random weights of this size lose two digits more.
        close(&case.backbone.logits(&case.input(), &visible, &folded), &expected, 2e-4);
    }
}
