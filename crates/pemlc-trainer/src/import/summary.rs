//! What there is to say of an imported task.

/// One task of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSummary {
    /// Name.
    pub name: String,
    /// Kinds of its adapters, for instance `DoRA` and `prefix`.
    pub kinds: Vec<String>,
    /// Smallest and largest rank of its deltas.
    pub ranks: Option<(usize, usize)>,
    /// Modules of the base model that have deltas.
    pub modules: usize,
    /// Rows in front of the tokens.
    pub rows: usize,
    /// Numbers that were trained.
    pub parameters: u64,
}
