//! What a lowering of a task's delta costs, from measurements.
//!
//! Seconds of one site, one thread of a CPU under ONNX Runtime: what [`Terms`] counts, each times a rate of the lowering.
//! `benches/task_switch.py --fit` counts the same, fits the rates to what it measured and prints them: these are of SmolLM2-135M's widths in ten
//! layers, 2 tasks of ranks 8, 16 and 64 and 8 of ranks 8 and 16 (benches/README.md, "The task switch"). They are of one machine, and only their
//! order matters here.

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

/// What a delta, its sum with the projection included, adds to a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Terms {
    /// Nodes.
    nodes: f64,
    /// Numbers of the factors that are read: once from memory, or copied and read again where each row has its own.
    factors: f64,
    /// Multiply-adds.
    products: f64,
    /// Numbers of activations that are written and read again: the hidden states and the delta, or the copy that stands beside them.
    activations: f64,
}

/// Seconds of one of each.
#[derive(Debug, Clone, Copy)]
struct Rates {
    node: f64,
    factor: f64,
    product: f64,
    activation: f64,
}

impl Rates {
    fn seconds(&self, terms: Terms) -> f64 {
        self.node * terms.nodes
            + self.factor * terms.factors
            + self.product * terms.products
            + self.activation * terms.activations
    }
}

/// The projections and the head themselves, which are nearly all of a run.
const PROJECTION: Rates = Rates { node: 0.0, factor: 3.5e-10, product: 2.4e-11, activation: 0.0 };
/// Gathered factors: small matrices, packed anew for each row of the batch.
const GATHERED: Rates = Rates { node: 0.0, factor: 5.2e-10, product: 3.0e-11, activation: 3.5e-10 };
/// Products by constants, packed once.
const CONSTANT: Rates = Rates { node: 0.0, factor: 6.7e-11, product: 2.6e-11, activation: 2.2e-11 };
/// Rows of the projection's own product.
const APPENDED: Rates = Rates { node: 0.0, factor: 4.8e-11, product: 2.3e-11, activation: 0.0 };

/// A delta: `[in, rank]` and `[rank, out]` for each task; `columns` are the ranks of all tasks, filled-up ones left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) rank: usize,
    pub(super) columns: usize,
}

impl Site {
    /// Seconds of the projection itself.
    pub(super) fn projection(&self, workload: Workload) -> f64 {
        let (_, tokens) = sizes(workload);
        let numbers = (self.inputs * self.outputs) as f64;
        let activations = tokens * self.outputs as f64;
        PROJECTION.seconds(Terms { nodes: 1.0, factors: numbers, products: tokens * numbers, activations })
    }

    /// Seconds of a gather of both factors and two batched products.
    pub(super) fn gather(&self, workload: Workload) -> f64 {
        let (batch, tokens) = sizes(workload);
        let factors = ((self.inputs + self.outputs) * self.rank) as f64;
        GATHERED.seconds(Terms {
            nodes: 5.0,
            factors: batch * factors,
            products: tokens * factors,
            activations: tokens * (self.rank + self.outputs) as f64,
        })
    }

    /// Seconds of two products by the factors of all tasks.
    pub(super) fn masked(&self, workload: Workload) -> f64 {
        let (_, tokens) = sizes(workload);
        let factors = ((self.inputs + self.outputs) * self.columns) as f64;
        CONSTANT.seconds(Terms {
            nodes: 4.0,
            factors,
            products: tokens * factors,
            activations: tokens * (self.columns + self.outputs) as f64,
        })
    }

    /// Seconds of one product by the factors of all tasks, and of as many rows more in the projection's.
    pub(super) fn appended(&self, workload: Workload) -> f64 {
        let (_, tokens) = sizes(workload);
        let factors = ((self.inputs + self.outputs) * self.columns) as f64;
        APPENDED.seconds(Terms {
            nodes: 3.0,
            factors,
            products: tokens * factors,
            activations: tokens * (self.inputs + 2 * self.columns) as f64,
        })
    }

    /// Seconds of a product into a basis of `input` directions, one by a gathered core and, where they have a basis too, one out of `output`
    /// directions.
    pub(super) fn shared_basis(&self, workload: Workload, input: usize, output: Option<usize>) -> f64 {
        let (batch, tokens) = sizes(workload);
        let core = (input * output.unwrap_or(self.outputs)) as f64;
        let dense = (self.inputs * input + output.unwrap_or_default() * self.outputs) as f64;
        let dense = Terms {
            nodes: if output.is_some() { 3.0 } else { 2.0 },
            factors: dense,
            products: tokens * dense,
            activations: tokens * (input + output.unwrap_or_default() + self.outputs) as f64,
        };
        CONSTANT.seconds(dense)
            + GATHERED.seconds(Terms { nodes: 2.0, factors: batch * core, products: tokens * core, activations: 0.0 })
    }
}

/// Rows, and tokens of all rows.
fn sizes(workload: Workload) -> (f64, f64) {
    (workload.batch as f64, (workload.batch * workload.sequence) as f64)
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

    #[test]
    fn one_a_for_all_tasks_is_cheaper_than_one_for_each() {
        let site = Site { inputs: 576, outputs: 1536, rank: 16, columns: 32 * 16 };
        for workload in WORKLOADS {
            let least = site.gather(workload).min(site.masked(workload)).min(site.appended(workload));
            assert!(site.shared_basis(workload, 16, None) < least, "{workload:?}");
        }
    }
}
