//! Whatever a graph holds, it is read back from its text as it was. Types need not fit together for that, so graphs are drawn freely.

use super::graph::Node;
use super::{
    Binary, Comparison, DType, Data, Dim, Encoding, Expression, Graph, Op, Part, Quantisation, Real, Symbol, Tensor,
    Unary, ValueId, ValueType, parse,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Operators of every kind. A new one has to be named in [`kind_of_operator`], and then missed here.
fn operators() -> impl Strategy<Value = Op> {
    let axis = 0usize..5;
    let axes = prop::collection::vec(0usize..5, 0..4);
    prop_oneof![
        Just(Op::And),
        prop::sample::select(vec![Binary::Add, Binary::Div, Binary::Mul, Binary::Pow, Binary::Sub])
            .prop_map(Op::Binary),
        dtypes().prop_map(|to| Op::Cast { to }),
        prop::sample::select(vec![
            Comparison::Greater,
            Comparison::GreaterOrEqual,
            Comparison::Less,
            Comparison::LessOrEqual
        ])
        .prop_map(Op::Comparison),
        axis.clone().prop_map(|axis| Op::Concat { axis }),
        axis.clone().prop_map(|axis| Op::CumSum { axis }),
        axis.clone().prop_map(|axis| Op::Gather { axis }),
        axis.clone().prop_map(|axis| Op::GatherElements { axis }),
        axis.clone().prop_map(|axis| Op::LogSoftmax { axis }),
        reals().prop_map(|scale| Op::Attention { scale }),
        reals().prop_map(|scale| Op::GroupedAttention { scale }),
        Just(Op::MatMul),
        (1usize..99, 1usize..99, 1usize..99).prop_map(|(inputs, outputs, block)| Op::MatMulNBits {
            inputs,
            outputs,
            block
        }),
        reals().prop_map(|epsilon| Op::RmsNorm { epsilon }),
        reals().prop_map(|epsilon| Op::SimplifiedLayerNorm { epsilon }),
        reals().prop_map(|epsilon| Op::SkipSimplifiedLayerNorm { epsilon }),
        (1usize..99).prop_map(|heads| Op::RotaryEmbedding { heads }),
        Just(Op::RotateHalves),
        axes.clone().prop_map(|axes| Op::Squeeze { axes }),
        axes.clone().prop_map(|axes| Op::ReduceMean { axes }),
        axes.clone().prop_map(|axes| Op::ReduceSum { axes }),
        prop::collection::vec(prop::option::of(0usize..9), 0..4).prop_map(|shape| Op::Reshape { shape }),
        Just(Op::RotateKeys),
        (axis.clone(), 0usize..9, 0usize..9).prop_map(|(axis, start, end)| Op::Slice { axis, start, end }),
        axis.prop_map(|axis| Op::Softmax { axis }),
        Just(Op::SoftPrompt),
        Just(Op::TaskLowRank),
        axes.clone().prop_map(|permutation| Op::Transpose { permutation }),
        prop::sample::select(vec![
            Unary::Cos,
            Unary::Erf,
            Unary::QuickGelu,
            Unary::Sigmoid,
            Unary::Sin,
            Unary::Sqrt,
            Unary::Swish,
            Unary::Tanh
        ])
        .prop_map(Op::Unary),
        axes.prop_map(|axes| Op::Unsqueeze { axes }),
        Just(Op::Where),
    ]
}

/// How many kinds [`kind_of_operator`] tells apart.
const OPERATORS: usize = 31;

fn kind_of_operator(op: &Op) -> usize {
    match op {
        Op::And => 0,
        Op::Binary(_) => 1,
        Op::Cast { .. } => 2,
        Op::Comparison(_) => 3,
        Op::Concat { .. } => 4,
        Op::CumSum { .. } => 5,
        Op::Gather { .. } => 6,
        Op::GatherElements { .. } => 7,
        Op::LogSoftmax { .. } => 8,
        Op::MatMul => 9,
        Op::ReduceMean { .. } => 10,
        Op::ReduceSum { .. } => 11,
        Op::Reshape { .. } => 12,
        Op::RotateKeys => 13,
        Op::Slice { .. } => 14,
        Op::Softmax { .. } => 15,
        Op::SoftPrompt => 16,
        Op::TaskLowRank => 17,
        Op::Transpose { .. } => 18,
        Op::Unary(_) => 19,
        Op::Unsqueeze { .. } => 20,
        Op::Where => 21,
        Op::Attention { .. } => 22,
        Op::GroupedAttention { .. } => 23,
        Op::MatMulNBits { .. } => 24,
        Op::RmsNorm { .. } => 25,
        Op::SimplifiedLayerNorm { .. } => 26,
        Op::SkipSimplifiedLayerNorm { .. } => 27,
        Op::RotaryEmbedding { .. } => 28,
        Op::RotateHalves => 29,
        Op::Squeeze { .. } => 30,
    }
}

fn reals() -> impl Strategy<Value = Real> {
    (0.0f32..1.0).prop_map(Real::from)
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::ALL.to_vec())
}

fn dims() -> impl Strategy<Value = Dim> {
    let symbols = prop::sample::subsequence(vec![Symbol::Batch, Symbol::PastSequence, Symbol::Sequence], 0..=3);
    (symbols, 0usize..40).prop_map(|(symbols, constant)| {
        symbols.into_iter().fold(Dim::from(constant), |sum, symbol| sum.plus(&Dim::from(symbol)))
    })
}

fn types() -> impl Strategy<Value = ValueType> {
    (dtypes(), prop::collection::vec(dims(), 0..4)).prop_map(|(dtype, shape)| ValueType { dtype, shape })
}

/// Names with and without characters and words that the text uses.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9_.]{0,9}",
        "\\PC{1,6}",
        prop::sample::select(vec!["return", "weight", "input", "a \"b\"", "#", "\n", "é\u{200b}"])
            .prop_map(str::to_owned),
    ]
}

/// Constants of every type that they have, with more values and fewer than are written out.
fn tensors() -> impl Strategy<Value = Arc<Tensor>> {
    let shape = prop::collection::vec(0usize..4, 0..4);
    let number = prop_oneof![any::<f32>(), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(-0.0)];
    // NaN equals nothing, itself included.
    let number = number.prop_map(|x| if x.is_nan() { 0.5 } else { x });
    (shape, 0usize..3, prop::collection::vec((number, any::<i64>(), any::<bool>()), 27)).prop_map(
        |(shape, kind, values)| {
            let count = shape.iter().product();
            let values = &values[..count];
            let data = match kind {
                0 => Data::F32(values.iter().map(|value| value.0).collect()),
                1 => Data::I64(values.iter().map(|value| value.1).collect()),
                _ => Data::Bool(values.iter().map(|value| value.2).collect()),
            };
            Arc::new(Tensor::new(shape, data).unwrap())
        },
    )
}

/// Expressions of every kind, nested. A new one has to be named in [`kinds_of_expression`], and then missed here.
fn expressions() -> impl Strategy<Value = Expression> {
    let shape = prop::collection::vec(0usize..5000, 0..3);
    let leaf = prop_oneof![
        tensors().prop_map(Expression::Constant),
        (names(), shape).prop_map(|(name, shape)| Expression::Checkpoint { name, shape }),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        let base = inner.clone().prop_map(Box::new);
        prop_oneof![
            (dtypes(), base.clone()).prop_map(|(to, base)| Expression::Cast { to, base }),
            prop::collection::vec(inner, 0..3).prop_map(Expression::ConcatColumns),
            (base.clone(), 0usize..9, 0usize..9).prop_map(|(base, start, end)| Expression::Slice { base, start, end }),
            base.clone().prop_map(Expression::Transpose),
            (base.clone(), tensors(), tensors()).prop_map(|(base, down, up)| Expression::AddLowRank { base, down, up }),
            (base.clone(), tensors()).prop_map(|(base, norms)| Expression::ColumnNorms { base, norms }),
            (quantisations(), base.clone()).prop_map(|((part, quantisation), rows)| Expression::Quantise {
                part,
                quantisation,
                rows
            }),
            (base, tensors(), tensors()).prop_map(|(base, offsets, frequencies)| Expression::RotateKeys {
                base,
                offsets,
                frequencies
            }),
        ]
    })
}

fn quantisations() -> impl Strategy<Value = (Part, Quantisation)> {
    let encoding = prop::sample::select(Encoding::ALL.to_vec());
    (prop::sample::select(Part::ALL.to_vec()), encoding, 1usize..200)
        .prop_map(|(part, encoding, block)| (part, Quantisation { encoding, block }))
}

/// How many kinds [`kinds_of_expression`] tells apart.
const EXPRESSIONS: usize = 10;

fn kinds_of_expression(expression: &Expression, kinds: &mut BTreeSet<usize>) {
    let (kind, parts): (usize, Vec<&Expression>) = match expression {
        Expression::Constant(_) => (0, vec![]),
        Expression::Checkpoint { .. } => (1, vec![]),
        Expression::Cast { base, .. } => (2, vec![base]),
        Expression::ConcatColumns(parts) => (3, parts.iter().collect()),
        Expression::Transpose(base) => (4, vec![base]),
        Expression::AddLowRank { base, .. } => (5, vec![base]),
        Expression::ColumnNorms { base, .. } => (6, vec![base]),
        Expression::RotateKeys { base, .. } => (7, vec![base]),
        Expression::Slice { base, .. } => (8, vec![base]),
        Expression::Quantise { rows, .. } => (9, vec![rows]),
    };
    kinds.insert(kind);
    parts.into_iter().for_each(|part| kinds_of_expression(part, kinds));
}

fn graphs() -> impl Strategy<Value = Graph> {
    let index = any::<prop::sample::Index>;
    let initialiser = (expressions(), types(), any::<bool>());
    let node = (operators(), prop::collection::vec(index(), 0..4), prop::collection::vec(types(), 1..3));
    (
        prop::collection::vec(types(), 1..3),
        prop::collection::vec(initialiser, 0..4),
        prop::collection::vec(node, 0..6),
        prop::collection::vec(index(), 0..4),
        prop::collection::btree_set(names(), 20),
    )
        .prop_map(|(inputs, initialisers, nodes, outputs, names)| {
            let mut names = names.into_iter();
            let mut name = move || names.next().unwrap();
            let mut graph = Graph::new(name());
            let mut made: Vec<ValueId> = inputs.into_iter().map(|own| graph.input(name(), own)).collect();
            for (expression, value_type, overridable) in initialisers {
                let id = graph.declare(name(), value_type);
                graph.initialisers.insert(id, expression);
                if overridable {
                    graph.overridable.insert(id);
                }
                made.push(id);
            }
            for (op, inputs, outputs) in nodes {
                let inputs = inputs.into_iter().map(|index| made[index.index(made.len())]).collect();
                let outputs: Vec<ValueId> = outputs.into_iter().map(|own| graph.declare(name(), own)).collect();
                made.extend(&outputs);
                graph.nodes.push(Node { op, inputs, outputs });
            }
            outputs.into_iter().for_each(|index| graph.output(made[index.index(made.len())]));
            graph
        })
}

proptest! {
    #[test]
    fn a_graph_is_read_back_from_its_text(graph in graphs()) {
        let text = graph.to_string();
        match parse(&text, &graph.constants()) {
            Ok(read) => prop_assert_eq!(read, graph, "{}", text),
            Err(error) => prop_assert!(false, "{error}\n{text}"),
        }
    }
}

/// That the property covers every operator and every expression.
#[test]
fn graphs_of_every_kind_are_drawn() {
    let mut runner = TestRunner::deterministic();
    let (mut operators, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..400 {
        let graph = graphs().new_tree(&mut runner).unwrap().current();
        operators.extend(graph.nodes.iter().map(|node| kind_of_operator(&node.op)));
        graph.initialisers().for_each(|(_, expression)| kinds_of_expression(expression, &mut expressions));
    }
    assert!(operators.into_iter().eq(0..OPERATORS));
    assert!(expressions.into_iter().eq(0..EXPRESSIONS));
}
