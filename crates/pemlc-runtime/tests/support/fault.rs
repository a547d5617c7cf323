//! What can be wrong with a toy decoder.

/// What is wrong with a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every row is answered as task 0.
    IgnoresTask,
    /// Every row is answered as the base model.
    AnswersAsBase,
    /// Every row is answered as the first row's task.
    TakesFirstRowsTask,
    /// Rows of another task than the first row's are NaN: right in an artifact that takes batches of one task.
    RefusesOtherTasks,
    /// One token's logit is 1e-2 too high.
    WrongLogits,
    /// One token's logit is 1e-2 too high in rows of another task than the first row's.
    BlursMixedBatches,
    /// The batch is fixed at 2.
    FrozenBatch,
    /// The sequence is fixed at 9.
    FrozenSequence,
    /// An id counts modulo the number of tasks, so that -1 is the last task.
    WrapsTaskId,
    /// An unknown id is answered as task 0.
    AnswersUnknownTask,
    /// An unknown id turns the whole batch into NaN.
    SpoilsTheBatch,
    /// An unknown id's logits are NaN, but its cache is not.
    CachesUnknownTask,
    /// Prefix rows appear in `present.*`.
    PrefixInCache,
    /// Later tokens are visible.
    NotCausal,
    /// Padding is visible.
    SeesPadding,
    /// New tokens cannot see the cache.
    IgnoresCache,
    /// The cache is scaled at every step.
    RewritesCache,
    /// `task_id` is no input.
    NoTaskInput,
    /// Rows of the last task are answered as the first row's task.
    LastTakesFirstRowsTask,
    /// New tokens of the last task cannot see the cache.
    LastIgnoresCache,
    /// Padding is visible to the last task.
    LastSeesPadding,
}

impl Fault {
    /// Those that every task shows.
    pub(crate) const ALL: [Self; 18] = [
        Self::IgnoresTask,
        Self::AnswersAsBase,
        Self::TakesFirstRowsTask,
        Self::RefusesOtherTasks,
        Self::WrongLogits,
        Self::BlursMixedBatches,
        Self::FrozenBatch,
        Self::FrozenSequence,
        Self::WrapsTaskId,
        Self::AnswersUnknownTask,
        Self::SpoilsTheBatch,
        Self::CachesUnknownTask,
        Self::PrefixInCache,
        Self::NotCausal,
        Self::SeesPadding,
        Self::IgnoresCache,
        Self::RewritesCache,
        Self::NoTaskInput,
    ];

    /// Those that the last task alone shows.
    pub(crate) const LAST: [Self; 3] = [Self::LastTakesFirstRowsTask, Self::LastIgnoresCache, Self::LastSeesPadding];
}
