//! What a lowering of a task's delta costs, from measurements.
//!
//! Seconds of one site, one thread of a CPU under ONNX Runtime: `nodes * node + bytes * byte + multiply-adds * flop`, with the counts
//! below. `benches/task_switch.py --fit` fits the three rates of each lowering and prints them: these are of SmolLM2-135M with 2, 8 and 32 tasks of
//! ranks 8, 16 and 64 (benches/README.md, "The task switch"). They are of one machine, and only their order matters here.

/// Rows and new tokens of a run that an artifact is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Rows of the batch.
    pub batch: usize,
    /// New tokens of a row.
    pub sequence: usize,
}

/// What artifacts are made for when nothing is said: single requests and batches, reading and writing, all weighing the same.
pub const WORKLOADS: [Workload; 4] = [
    Workload { batch: 8, sequence: 64 },
    Workload { batch: 1, sequence: 64 },
    Workload { batch: 8, sequence: 1 },
    Workload { batch: 1, sequence: 1 },
];

/// Seconds per node, per byte of factors that is copied or read, per multiply-add.
#[derive(Debug, Clone, Copy)]
struct Rates {
    node: f64,
    byte: f64,
    multiply_add: f64,
}

/// A gathered product: small matrices, packed anew for each row of the batch.
const GATHER: Rates = Rates { node: 2.2e-6, byte: 5.0e-11, multiply_add: 2.1e-11 };
/// A product by a constant, packed once.
const MASKED: Rates = Rates { node: 5.8e-6, byte: 7.2e-11, multiply_add: 1.0e-11 };

/// A delta: `[in, rank]` and `[rank, out]` for each task; `columns` are the ranks of all tasks, filled-up ones left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) rank: usize,
    pub(super) columns: usize,
}

impl Site {
    /// Seconds of a gather of both factors and two batched products.
    pub(super) fn gather(&self, workload: Workload) -> f64 {
        let factors = ((self.inputs + self.outputs) * self.rank) as f64;
        let (batch, tokens) = (workload.batch as f64, (workload.batch * workload.sequence) as f64);
        // Both factors are read, written, and read again.
        4.0 * GATHER.node + 12.0 * batch * factors * GATHER.byte + tokens * factors * GATHER.multiply_add
    }

    /// Seconds of two products by the factors of all tasks.
    pub(super) fn masked(&self, workload: Workload) -> f64 {
        let factors = ((self.inputs + self.outputs) * self.columns) as f64;
        let tokens = (workload.batch * workload.sequence) as f64;
        3.0 * MASKED.node + 4.0 * factors * MASKED.byte + tokens * factors * MASKED.multiply_add
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_columns_are_masked_and_many_gathered() {
        let site = |tasks: usize, rank: usize| Site { inputs: 576, outputs: 576, rank, columns: tasks * rank };
        let prefill = WORKLOADS[0];
        assert!(site(2, 8).masked(prefill) < site(2, 8).gather(prefill));
        assert!(site(32, 16).gather(prefill) < site(32, 16).masked(prefill));
        let decode = WORKLOADS[2];
        assert!(site(4, 8).masked(decode) < site(4, 8).gather(decode));
        assert!(site(64, 64).gather(decode) < site(64, 64).masked(decode));
    }
}
