//! From a case in which two runtimes differ to the first node whose output its own inputs do not explain.

mod judge;

use super::difference::Difference;
use super::graph::Graph;
use super::report::{Culprit, Growth, Hidden, Operand, Step, Verdict};
use super::value::Value;
use super::{BisectError, layer};
use crate::RuntimeError;
use crate::check::CheckError;
use judge::{Judged, Known, Values, first_wrong};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Nodes whose values are looked at in one run, at first.
const FIRST_CHUNK: usize = 48;
/// Values of one run take about this much of each runtime's memory.
const CHUNK_BYTES: usize = 192 << 20;
/// A node without a reference is told when its outputs differ by this much more than its inputs, and by this much at all.
const UNREFERENCED_GROWTH: f64 = 16.0;
const UNREFERENCED_ROUNDINGS: f64 = 4096.0;
/// The difference has gone when less than this share of it is left.
const GONE: f64 = 0.25;

/// Named values as one side computed them, in the order asked for.
pub(super) type Observed = Vec<Result<Value, String>>;

/// Gives values inside the graph: side 0 or 1, names.
pub(super) type Observe<'a> = dyn FnMut(usize, &[String]) -> Result<Observed, RuntimeError> + 'a;

/// Where to look.
pub(super) struct Question<'a> {
    /// The graph as it should be: its weights are what the reference computes with.
    pub(super) graph: &'a Graph,
    /// The graph's inputs.
    pub(super) inputs: &'a BTreeMap<String, Value>,
    /// Output by which the two differ, and by how much; `None` when they agree.
    pub(super) differing: Option<(&'a str, f64)>,
}

/// Looks at every value of the graph on both sides.
pub(super) fn narrow(
    question: &Question<'_>,
    observe: &mut Observe<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<Verdict, BisectError> {
    let nodes = question.graph.nodes();
    let mut search = Search { question, growth: Growth::default(), gone: Vec::new() };
    let (mut done, mut chunk) = (0, FIRST_CHUNK);
    while done < nodes.len() {
        let range = done..nodes.len().min(done + chunk);
        progress(&format!("nodes {} to {} of {}", range.start + 1, range.end, nodes.len()));
        let bytes = match search.chunk(range.clone(), observe)? {
            Looked::Found(culprit) => return Ok(Verdict::Node(culprit)),
            Looked::Passed { bytes } => bytes,
        };
        done = range.end;
        chunk = (CHUNK_BYTES / (bytes / range.len()).max(1)).clamp(8, 2048);
    }
    if let Some(range) = search.gone.first().cloned() {
        progress("the difference goes when values are read; looking for which");
        let range = search.refine(range, observe)?;
        let names = |range: Range<usize>| nodes[range].iter().map(|node| node.name.clone()).collect();
        return Ok(Verdict::Hidden(Hidden { nodes: names(range) }));
    }
    Ok(Verdict::Rounding(search.growth))
}

enum Looked {
    Found(Box<Culprit>),
    Passed { bytes: usize },
}

struct Search<'a> {
    question: &'a Question<'a>,
    growth: Growth,
    /// Nodes with whose values as outputs the difference was gone.
    gone: Vec<Range<usize>>,
}

impl Search<'_> {
    /// Values that the nodes of `range` read and write, but for the graph's inputs and weights.
    fn names(&self, range: Range<usize>) -> Vec<String> {
        let graph = self.question.graph;
        let outside = |name: &&String| {
            !name.is_empty() && !self.question.inputs.contains_key(*name) && !graph.is_initialiser(name)
        };
        let nodes = &graph.nodes()[range];
        let all = nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs)).filter(outside);
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn chunk(&mut self, range: Range<usize>, observe: &mut Observe<'_>) -> Result<Looked, BisectError> {
        let names = self.names(range.clone());
        let mut asked = names.clone();
        asked.extend(self.question.differing.iter().map(|(output, _)| (*output).to_owned()));
        let (one, other) = match (observe(0, &asked), observe(1, &asked)) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(error), _) | (_, Err(error)) => return self.in_parts(range, &error, observe),
        };
        if self.is_gone(one.last(), other.last()) {
            self.gone.push(range.clone());
        }
        let values: Values<'_> =
            names.iter().zip(one.iter().zip(&other)).map(|(name, (a, b))| (name.as_str(), [a, b])).collect();
        for position in range {
            if let Some(culprit) = self.node(position, &values)? {
                return Ok(Looked::Found(Box::new(culprit)));
            }
        }
        let bytes = one.iter().flatten().map(Value::bytes).sum();
        Ok(Looked::Passed { bytes })
    }

    /// Some value cannot be made an output of this graph on one of the runtimes: the others can.
    fn in_parts(
        &mut self,
        range: Range<usize>,
        error: &RuntimeError,
        observe: &mut Observe<'_>,
    ) -> Result<Looked, BisectError> {
        if range.len() == 1 {
            let name = self.question.graph.nodes()[range.start].name.clone();
            self.growth.unread.push((name, error.to_string()));
            return Ok(Looked::Passed { bytes: 0 });
        }
        let middle = range.start + range.len() / 2;
        match self.chunk(range.start..middle, observe)? {
            Looked::Found(culprit) => Ok(Looked::Found(culprit)),
            Looked::Passed { bytes } => Ok(match self.chunk(middle..range.end, observe)? {
                Looked::Found(culprit) => Looked::Found(culprit),
                Looked::Passed { bytes: further } => Looked::Passed { bytes: bytes + further },
            }),
        }
    }

    /// Whether the difference that is being looked for is no longer there.
    fn is_gone(&self, one: Option<&Result<Value, String>>, other: Option<&Result<Value, String>>) -> bool {
        match (self.question.differing, one, other) {
            (Some((_, expected)), Some(Ok(one)), Some(Ok(other))) => {
                let left = Difference::between(one, other).largest;
                left < GONE * expected
            }
            _ => false,
        }
    }

    /// The fewest neighbouring nodes of `range` that make the difference go when their values are read.
    fn refine(&self, mut range: Range<usize>, observe: &mut Observe<'_>) -> Result<Range<usize>, BisectError> {
        while range.len() > 1 {
            let middle = range.start + range.len() / 2;
            let mut half = None;
            for part in [range.start..middle, middle..range.end] {
                let mut asked = self.names(part.clone());
                asked.extend(self.question.differing.iter().map(|(output, _)| (*output).to_owned()));
                let mut read = |side: usize| observe(side, &asked).map_err(CheckError::from);
                let (one, other) = (read(0)?, read(1)?);
                if self.is_gone(one.last(), other.last()) {
                    half = Some(part);
                    break;
                }
            }
            match half {
                Some(part) => range = part,
                None => break,
            }
        }
        Ok(range)
    }

    /// The node at `position`, if it is the one.
    fn node(&mut self, position: usize, values: &Values<'_>) -> Result<Option<Culprit>, BisectError> {
        let graph = self.question.graph;
        let node = &graph.nodes()[position];
        let mut constants: BTreeMap<&str, Value> = BTreeMap::new();
        for name in &node.inputs {
            if let Some(value) = graph.initialiser(name)? {
                constants.insert(name, value);
            }
        }
        let known = Known { constants: &constants, inputs: self.question.inputs, values };
        let inputs = [0, 1].map(|side| node.inputs.iter().map(|name| known.of(name, side)).collect::<Vec<_>>());
        let mut differences = Vec::with_capacity(node.inputs.len());
        for (one, other) in inputs[0].iter().zip(&inputs[1]) {
            differences.push(one.zip(*other).map(|(one, other)| Difference::between(one, other)));
        }
        let before = differences.iter().flatten().map(|difference| difference.relative).fold(0.0, f64::max);
        for (which, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let Some(sides) = values.get(name.as_str()) else { continue };
            let [Ok(one), Ok(other)] = sides else {
                let error = sides.iter().find_map(|side| side.as_ref().err()).cloned().unwrap_or_default();
                self.growth.unread.push((node.name.clone(), error));
                continue;
            };
            let outputs = [one, other];
            let difference = Difference::between(one, other);
            let judged = Judged::new(node, &inputs, outputs, which, &difference);
            let floor = UNREFERENCED_ROUNDINGS * one.number_type.unit_roundoff();
            let wrong = match judged {
                // What both do alike is not what makes them differ.
                Some(Judged { unexplained: [true, true] }) if difference.relative <= floor => {
                    self.growth.disputed.push(node.name.clone());
                    None
                }
                Some(Judged { unexplained }) => unexplained.contains(&true).then_some(Some(unexplained)),
                None => {
                    self.growth.unreferenced.insert(node.operator.clone());
                    let suspect = difference.relative > UNREFERENCED_GROWTH * before && difference.relative > floor;
                    suspect.then_some(None)
                }
            };
            if let Some(wrong) = wrong {
                let operand = |(index, name): (usize, &String)| Operand {
                    name: name.clone(),
                    described: inputs[0][index].map_or_else(|| "not read".to_owned(), Value::describe),
                    weight: constants.contains_key(name.as_str()),
                    difference: differences[index].clone(),
                };
                let named = node.inputs.iter().enumerate().filter(|(_, name)| !name.is_empty());
                return Ok(Some(Culprit {
                    node: node.name.clone(),
                    operator: node.operator.clone(),
                    position: position + 1,
                    of: graph.nodes().len(),
                    inputs: named.map(operand).collect(),
                    output: Operand {
                        name: name.clone(),
                        described: one.describe(),
                        weight: false,
                        difference: Some(difference.clone()),
                    },
                    element: first_wrong(node, &inputs, outputs, which, &difference),
                    wrong,
                }));
            }
            self.growth.steps.push(Step {
                node: node.name.clone(),
                operator: node.operator.clone(),
                layer: layer(&node.name),
                before,
                after: difference.relative,
            });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::{NumberType, Numbers};
    use super::*;

    const NAMES: [&str; 3] = ["doubled", "shifted", "logits"];

    /// `logits = (2 x + 1) 3`, as a file.
    fn graph(folder: &std::path::Path) -> Graph {
        use prost::Message as _;
        use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
        let node = |operator: &str, inputs: [&str; 2], output: &str| NodeProto {
            name: output.to_owned(),
            op_type: operator.to_owned(),
            input: inputs.map(str::to_owned).to_vec(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        let constant = |name: &str, number: f32| TensorProto {
            name: name.to_owned(),
            data_type: 1,
            dims: vec![1],
            raw_data: number.to_le_bytes().to_vec(),
            ..Default::default()
        };
        let value = |name: &str| ValueInfoProto { name: name.to_owned(), ..Default::default() };
        let graph = GraphProto {
            node: vec![
                node("Mul", ["x", "two"], NAMES[0]),
                node("Add", ["doubled", "one"], NAMES[1]),
                node("Mul", ["shifted", "three"], NAMES[2]),
            ],
            initializer: vec![constant("one", 1.0), constant("two", 2.0), constant("three", 3.0)],
            input: vec![value("x")],
            output: vec![value("logits")],
            ..Default::default()
        };
        let path = folder.join("model.onnx");
        std::fs::write(&path, ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec())
            .expect("written");
        Graph::read(&path).expect("a graph")
    }

    fn value(numbers: &[f32]) -> Value {
        Value::new(NumberType::F32, vec![numbers.len()], Numbers::Float(numbers.to_vec()))
    }

    const X: [f32; 3] = [1.0, -2.0, 0.5];

    /// The value `name` when every node is right.
    fn right(name: &str) -> Vec<f32> {
        let of = |x: &f32| match name {
            "doubled" => 2.0 * x,
            "shifted" => 2.0 * x + 1.0,
            _ => (2.0 * x + 1.0) * 3.0,
        };
        X.iter().map(of).collect()
    }

    /// What is found when the first side computes `wrong`, given the names that are read, and the second is right.
    fn find(difference: f64, wrong: impl Fn(&str, &[String]) -> Option<Vec<f32>>) -> Verdict {
        let folder = tempfile::tempdir().expect("a folder");
        let graph = graph(folder.path());
        let inputs = BTreeMap::from([("x".to_owned(), value(&X))]);
        let question = Question { graph: &graph, inputs: &inputs, differing: Some(("logits", difference)) };
        let mut observe = |side: usize, names: &[String]| {
            let of = |name: &String| {
                let wrong = if side == 0 { wrong(name, names) } else { None };
                Ok(value(&wrong.unwrap_or_else(|| right(name))))
            };
            Ok(names.iter().map(of).collect())
        };
        narrow(&question, &mut observe, &mut |_| ()).expect("no error")
    }

    #[test]
    fn a_wrong_node_is_found_and_what_follows_from_it_is_not_blamed() {
        let shifted = vec![3.0, -3.0, 2.5];
        let verdict = find(1.5, |name, _| match name {
            "shifted" => Some(shifted.clone()),
            "logits" => Some(shifted.iter().map(|x| x * 3.0).collect()),
            _ => None,
        });
        let Verdict::Node(culprit) = verdict else { panic!("{verdict:?}") };
        assert_eq!((culprit.node.as_str(), culprit.wrong), ("shifted", Some([true, false])));
        assert_eq!((culprit.element.indices.as_str(), culprit.element.found), ("[2]", [2.5, 2.0]));
        assert_eq!(culprit.element.expected.map(|expected| expected.map(|(number, _)| number)), [Some(2.0); 2]);
    }

    #[test]
    fn rounding_blames_no_node() {
        let verdict = find(1e-6, |name, _| Some(right(name).iter().map(|x| x * (1.0 + f32::EPSILON)).collect()));
        let Verdict::Rounding(growth) = verdict else { panic!("{verdict:?}") };
        assert_eq!(growth.steps.len(), 3);
        assert!(growth.steps.iter().all(|step| step.after > 0.0 && step.after < 2e-7), "{growth:?}");
    }

    #[test]
    fn an_optimisation_that_goes_when_its_values_are_read_is_narrowed_to_them() {
        // The first side fuses the last two nodes wrongly, unless the value between them is an output.
        let verdict = find(3.0, |name, read| {
            let fused = name == "logits" && !read.iter().any(|name| name == "shifted");
            fused.then(|| right("logits").iter().map(|x| x + 3.0).collect())
        });
        let Verdict::Hidden(hidden) = verdict else { panic!("{verdict:?}") };
        assert_eq!(hidden.nodes, ["shifted"]);
    }
}
