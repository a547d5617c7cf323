//! One fixed batch of random tokens, every token of which predicts the next.

use pemlc_trainer::backbone::{Input, Query};

/// Rows of equal length, without padding.
pub(crate) struct Batch {
    rows: usize,
    length: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    tasks: Vec<i64>,
    /// What is predicted from where.
    pub(crate) queries: Vec<Query>,
}

impl Batch {
    /// Tokens below `vocabulary`, the same for the same arguments.
    pub(crate) fn new(rows: usize, length: usize, vocabulary: usize) -> Self {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let tokens: Vec<u32> = (0..rows * length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Below the vocabulary's size, which is a u32 in every model.
                ((state >> 33) % vocabulary as u64) as u32
            })
            .collect();
        let queries = tokens
            .iter()
            .enumerate()
            .filter(|(index, _)| index % length > 0)
            .map(|(index, token)| Query { position: index - 1, token: *token })
            .collect();
        Self {
            rows,
            length,
            ids: tokens.into_iter().map(i64::from).collect(),
            mask: vec![1; rows * length],
            tasks: vec![0; rows],
            queries,
        }
    }

    pub(crate) fn input(&self) -> Input<'_> {
        Input {
            rows: self.rows,
            length: self.length,
            input_ids: &self.ids,
            attention_mask: &self.mask,
            task_ids: &self.tasks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_predicted_from_the_one_before_it_in_its_row() {
        let batch = Batch::new(2, 3, 10);
        let at: Vec<_> = batch.queries.iter().map(|query| query.position).collect();
        assert_eq!(at, [0, 1, 3, 4]);
        for query in &batch.queries {
            assert_eq!(i64::from(query.token), batch.ids[query.position + 1]);
        }
    }
}
