//! The intermediate representation: typed values with symbolic shapes, operators, and initialisers that are
//! expressions over checkpoint tensors. No protobuf type appears here or in a pass.

mod expression;
mod graph;
mod infer;
mod infer_fused;
mod op;
mod parse;
mod quantisation;
#[cfg(test)]
mod round_trip;
mod tensor;
mod text;
mod value;
mod verify;

pub use expression::Expression;
pub(crate) use graph::scalar_name;
pub use graph::{Graph, IrError, Node, Value, ValueId};
pub use infer::infer;
pub use op::{Binary, Comparison, Op, Real, Unary};
pub use parse::{ParseError, parse};
pub use quantisation::{Encoding, Part, Quantisation};
pub use tensor::{Data, Tensor};
pub use value::{DType, Dim, Symbol, ValueType};
pub use verify::verify;
