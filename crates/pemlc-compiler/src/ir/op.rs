//! Operators. Each has one output, but for a sum that is normed as well; what ONNX takes as a constant input (axes, target shapes, slice bounds) is an attribute here.

use super::value::DType;
use std::fmt;

/// A number among an operator's attributes, compared by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Real(u32);

impl Real {
    /// The number.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for Real {
    fn from(number: f32) -> Self {
        Self(number.to_bits())
    }
}

/// As Rust writes the number, so that it is read back bit for bit.
impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// An elementwise function of one f32 value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Unary {
    Cos,
    Erf,
    /// `x sigmoid(x)`, as ONNX Runtime has it.
    QuickGelu,
    Sigmoid,
    Sin,
    Sqrt,
    /// `x sigmoid(x)`, as ONNX has it since opset 24.
    Swish,
    Tanh,
}

/// An elementwise function of two values of one number type, with broadcasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Div,
    Mul,
    Pow,
    Sub,
}

/// A comparison of two values of one number type, with broadcasting; the result is bool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// An operator with its attributes. Axes count from the front.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Logical and of two bool values, with broadcasting.
    And,
    /// ONNX's attention, since opset 23: queries `[batch, heads, sequence, size]`, keys and values `[batch, groups, total, size]`, an
    /// additive mask `[batch, 1, sequence, total]`; the result is like the queries. Heads share the keys of their group.
    Attention {
        /// What products of queries and keys are multiplied by.
        scale: Real,
    },
    /// Two inputs of one number type.
    Binary(Binary),
    /// Converts the number type.
    Cast {
        /// Number type of the result.
        to: DType,
    },
    /// Two inputs of one number type, result bool.
    Comparison(Comparison),
    /// Inputs one after another along `axis`.
    Concat {
        /// Axis that grows.
        axis: usize,
    },
    /// Inclusive running sum along `axis`.
    CumSum {
        /// Axis summed along.
        axis: usize,
    },
    /// `data`, `indices` (i64, within bounds): slices of `data` along `axis`; the indices' shape takes the axis' place.
    Gather {
        /// Axis indexed.
        axis: usize,
    },
    /// Attention as lowering writes it: queries `[batch, sequence, heads, size]`, keys and values `[batch, groups, total, size]`, an additive
    /// mask `[batch, 1, 1, sequence, total]`; the result is `[batch, sequence, heads * size]`. No runtime has it: `legalise` rewrites it.
    GroupedAttention {
        /// What queries are multiplied by.
        scale: Real,
    },
    /// Matrix product over the two last axes, broadcasting the others.
    MatMul,
    /// `x` f32 `[.., inputs]` by a matrix of four-bit numbers: `values` u8 `[outputs, blocks, block / 2]` and `scales` f32
    /// `[outputs, blocks]`, as [`Encoding::Nibbles`](super::Encoding::Nibbles) has them, 8 taken away from each number and no offset added. ONNX
    /// Runtime's own; what is computed is f32.
    MatMulNBits {
        /// Size of the axis summed over.
        inputs: usize,
        /// Size of the result's last axis.
        outputs: usize,
        /// Numbers that share a scale.
        block: usize,
    },
    /// Mean along `axes`, which stay with size 1.
    ReduceMean {
        /// Axes averaged over.
        axes: Vec<usize>,
    },
    /// Sum along `axes`, which stay with size 1.
    ReduceSum {
        /// Axes summed over.
        axes: Vec<usize>,
    },
    /// `x / sqrt(mean(x^2) + epsilon) * weight` over the last axis, for `x` and `weight` `[width]`. ONNX has it since opset 23.
    RmsNorm {
        /// What keeps the root from zero.
        epsilon: Real,
    },
    /// ONNX's rotation by positions, since opset 23: `x` `[batch, sequence, heads * size]`, cosines and sines `[batch, sequence, size / 2]`. Pair
    /// `i` of a head is its elements `i` and `i + size / 2`.
    RotaryEmbedding {
        /// Heads that the last axis of `x` holds.
        heads: usize,
    },
    /// `x * along + swapped(x) * across`, where the halves of the last axis have changed places in `swapped(x)`, with broadcasting of
    /// `along` and `across`. No runtime has it: `legalise` rewrites it.
    RotateHalves,
    /// As [`RmsNorm`](Self::RmsNorm), under the name by which ONNX Runtime has had it for longer.
    SimplifiedLayerNorm {
        /// What keeps the root from zero.
        epsilon: Real,
    },
    /// ONNX Runtime's norm of a sum: `x` and `y` of one type, `weight`. Makes the norm of `x + y`, and `x + y`.
    SkipSimplifiedLayerNorm {
        /// What keeps the root from zero.
        epsilon: Real,
    },
    /// Removes these axes, each of size 1.
    Squeeze {
        /// Axes of the input.
        axes: Vec<usize>,
    },
    /// Same values in row-major order under another shape; `None` keeps the input's dimension at that place.
    Reshape {
        /// Dimensions of the result.
        shape: Vec<Option<usize>>,
    },
    /// `keys` `[sets, kv_heads, rows, head_dim]`, `offsets` i64 `[sets]`, `frequencies` f32 `[head_dim / 2]`: keys as they would be if each
    /// set stood `offset` positions further on. No runtime has it: a pass turns stored keys to the frame that the graph wants them in.
    RotateKeys,
    /// Elements `start..end` of `axis`.
    Slice {
        /// Axis cut.
        axis: usize,
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
    },
    /// `data` and `indices` (i64, within bounds) of one rank: `data` at the index that `indices` holds along `axis`, and at its own place
    /// along the others, where both have one size.
    GatherElements {
        /// Axis indexed.
        axis: usize,
    },
    /// Its input, vectors that stand in front of the tokens: what is computed from them is the adapted model, and depends on no token. No
    /// runtime has it: a pass evaluates all that follows.
    SoftPrompt,
    /// Logarithm of the softmax along `axis`.
    LogSoftmax {
        /// Axis whose exponentials sum to one.
        axis: usize,
    },
    /// Softmax along `axis`.
    Softmax {
        /// Axis that sums to one.
        axis: usize,
    },
    /// `x` `[batch, sequence, in]`, `index` i64 `[batch]`, `down` `[tasks, in, rank]`, `up` `[tasks, rank, out]`: each row of `x` through
    /// its own task's product, `x_b down_t up_t`; all rows through one task's where `index` is `[1]`. No runtime has it: a pass chooses
    /// a lowering for each.
    TaskLowRank,
    /// Axis `i` of the result is axis `permutation[i]` of the input.
    Transpose {
        /// Source axis of each result axis.
        permutation: Vec<usize>,
    },
    /// One input, f32.
    Unary(Unary),
    /// Inserts axes of size 1 at these places of the result.
    Unsqueeze {
        /// Axes of the result.
        axes: Vec<usize>,
    },
    /// `condition` (bool), `then`, `otherwise`, with broadcasting.
    Where,
}

impl Op {
    /// The operator set that it belongs to; the empty one is ONNX's own.
    pub fn domain(&self) -> &'static str {
        match self {
            Self::MatMulNBits { .. } | Self::SkipSimplifiedLayerNorm { .. } | Self::Unary(Unary::QuickGelu) => {
                "com.microsoft"
            }
            // ONNX Runtime keeps `SimplifiedLayerNormalization` in ONNX's own domain, where the standard does not know it.
            _ => "",
        }
    }

    /// Name, which is the ONNX operator type where ONNX has the operator.
    pub fn name(&self) -> &'static str {
        match self {
            Self::And => "And",
            Self::Attention { .. } => "Attention",
            Self::Binary(Binary::Add) => "Add",
            Self::Binary(Binary::Div) => "Div",
            Self::Binary(Binary::Mul) => "Mul",
            Self::Binary(Binary::Pow) => "Pow",
            Self::Binary(Binary::Sub) => "Sub",
            Self::Cast { .. } => "Cast",
            Self::Comparison(Comparison::Greater) => "Greater",
            Self::Comparison(Comparison::GreaterOrEqual) => "GreaterOrEqual",
            Self::Comparison(Comparison::Less) => "Less",
            Self::Comparison(Comparison::LessOrEqual) => "LessOrEqual",
            Self::Concat { .. } => "Concat",
            Self::CumSum { .. } => "CumSum",
            Self::Gather { .. } => "Gather",
            Self::GatherElements { .. } => "GatherElements",
            Self::GroupedAttention { .. } => "GroupedAttention",
            Self::LogSoftmax { .. } => "LogSoftmax",
            Self::MatMul => "MatMul",
            Self::MatMulNBits { .. } => "MatMulNBits",
            Self::ReduceMean { .. } => "ReduceMean",
            Self::ReduceSum { .. } => "ReduceSum",
            Self::Reshape { .. } => "Reshape",
            Self::RmsNorm { .. } => "RMSNormalization",
            Self::RotaryEmbedding { .. } => "RotaryEmbedding",
            Self::RotateHalves => "RotateHalves",
            Self::RotateKeys => "RotateKeys",
            Self::SimplifiedLayerNorm { .. } => "SimplifiedLayerNormalization",
            Self::SkipSimplifiedLayerNorm { .. } => "SkipSimplifiedLayerNormalization",
            Self::Slice { .. } => "Slice",
            Self::Softmax { .. } => "Softmax",
            Self::SoftPrompt => "SoftPrompt",
            Self::Squeeze { .. } => "Squeeze",
            Self::TaskLowRank => "TaskLowRank",
            Self::Transpose { .. } => "Transpose",
            Self::Unary(Unary::Cos) => "Cos",
            Self::Unary(Unary::Erf) => "Erf",
            Self::Unary(Unary::QuickGelu) => "QuickGelu",
            Self::Unary(Unary::Sigmoid) => "Sigmoid",
            Self::Unary(Unary::Sin) => "Sin",
            Self::Unary(Unary::Sqrt) => "Sqrt",
            Self::Unary(Unary::Swish) => "Swish",
            Self::Unary(Unary::Tanh) => "Tanh",
            Self::Unsqueeze { .. } => "Unsqueeze",
            Self::Where => "Where",
        }
    }
}
