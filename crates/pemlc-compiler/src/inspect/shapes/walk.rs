//! Goes through a model in execution order with what is known of every value; into graphs inside nodes and functions too.

use super::dim::Dim;
use super::fact::Fact;
use super::operators;
use crate::inspect::model::{AttributeValue, Function, Graph, Model, Node, TensorType};
use crate::inspect::shortened;
use std::collections::HashMap;
use std::rc::Rc;

/// Functions may call functions so deep. The standard forbids recursion; a hostile file does not care.
const MAX_CALLS: usize = 16;
/// Nodes visited in all: functions that call functions grow exponentially.
const MAX_VISITS: usize = 1 << 20;

/// A node, with the attributes of the function call that it is in.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) node: &'a Node,
    bindings: Option<&'a HashMap<&'a str, &'a AttributeValue>>,
}

/// One node and what is known of its values.
pub(crate) struct Visit<'a, 'v> {
    pub(crate) call: Call<'a>,
    /// The nodes around it, each followed by `/`.
    pub(crate) prefix: &'v str,
    /// As the node names them; absent ones are none.
    pub(crate) inputs: &'v [Option<Fact>],
    pub(crate) outputs: &'v [Fact],
    /// Whether it stands inside a function, and so is no node of the graph.
    pub(crate) in_function: bool,
    /// Whether its work is that of the nodes visited before it: a call, or a node with graphs inside.
    pub(crate) is_compound: bool,
}

/// Visits all nodes; whether there were too many.
pub(crate) fn walk(model: &Model, visit: &mut dyn FnMut(&Visit<'_, '_>)) -> bool {
    let functions = model.functions.iter();
    let functions = functions.map(|function| ((function.domain.as_str(), function.name.as_str()), function)).collect();
    let mut walker = Walker { functions, left: MAX_VISITS, visit };
    walker.graph(&model.graph, None, "", Place::default());
    walker.left == 0
}

/// Facts by name, and those of the graph around.
struct Scope<'a, 's> {
    facts: HashMap<&'a str, Fact>,
    outer: Option<&'s Scope<'a, 's>>,
}

impl Scope<'_, '_> {
    fn get(&self, name: &str) -> Option<&Fact> {
        self.facts.get(name).or_else(|| self.outer?.get(name))
    }
}

/// Where in functions the walk is.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    calls: usize,
    bindings: Option<&'a HashMap<&'a str, &'a AttributeValue>>,
}

struct Walker<'a, 'v> {
    functions: HashMap<(&'a str, &'a str), &'a Function>,
    left: usize,
    visit: &'v mut dyn FnMut(&Visit<'_, '_>),
}

impl<'a> Walker<'a, '_> {
    /// Visits `graph`; facts of its outputs.
    fn graph<'b>(
        &mut self,
        graph: &'b Graph,
        outer: Option<&Scope<'b, '_>>,
        prefix: &str,
        place: Place<'b>,
    ) -> Vec<Fact>
    where
        'a: 'b,
    {
        let mut scope = Scope { facts: HashMap::new(), outer };
        for input in &graph.inputs {
            scope.facts.insert(&input.name, input.declared.as_ref().map(Fact::of_type).unwrap_or_default());
        }
        scope.facts.extend(graph.weights.iter().map(|weight| (weight.name.as_str(), Fact::of_weight(weight))));
        let declared = graph.values.iter().chain(&graph.outputs);
        let declared: HashMap<&str, &TensorType> =
            declared.filter_map(|value| Some((value.name.as_str(), value.declared.as_ref()?))).collect();
        for node in &graph.nodes {
            self.node(node, &mut scope, &declared, prefix, place);
        }
        graph.outputs.iter().map(|output| scope.get(&output.name).cloned().unwrap_or_default()).collect()
    }

    fn node<'b>(
        &mut self,
        node: &'b Node,
        scope: &mut Scope<'b, '_>,
        declared: &HashMap<&str, &TensorType>,
        prefix: &str,
        place: Place<'b>,
    ) where
        'a: 'b,
    {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let call = Call { node, bindings: place.bindings };
        let inputs: Vec<Option<Fact>> = node
            .inputs
            .iter()
            .map(|input| (!input.is_empty()).then(|| scope.get(input).cloned().unwrap_or_default()))
            .collect();
        let inner_prefix = || shortened(&format!("{prefix}{}/", node.label()));
        let function = self.functions.get(&(node.domain.as_str(), node.operator.as_str())).copied();
        let mut is_compound = false;
        let mut outputs = match function {
            Some(function) if place.calls < MAX_CALLS => {
                is_compound = true;
                self.function(function, call, &inputs, &inner_prefix(), place)
            }
            _ => operators::infer(call, &inputs),
        };
        for (_, graph) in node.graphs() {
            let found = self.graph(graph, Some(&*scope), &inner_prefix(), place);
            if node.operator == "If" {
                outputs = if is_compound { outputs.into_iter().zip(found).map(agreed).collect() } else { found };
            }
            is_compound = true;
        }
        outputs.resize(node.outputs.len(), Fact::default());
        let outputs: Vec<Fact> = outputs
            .into_iter()
            .zip(&node.outputs)
            .map(|(fact, name)| fact.declared_as(declared.get(name.as_str()).copied()))
            .collect();
        (self.visit)(&Visit {
            call,
            prefix,
            inputs: &inputs,
            outputs: &outputs,
            in_function: place.calls > 0,
            is_compound,
        });
        scope.facts.extend(node.outputs.iter().map(String::as_str).zip(outputs));
    }

    fn function(
        &mut self,
        function: &'a Function,
        call: Call<'_>,
        inputs: &[Option<Fact>],
        prefix: &str,
        place: Place<'_>,
    ) -> Vec<Fact> {
        let attributes = call.node.attributes.iter();
        let bindings: HashMap<&str, &AttributeValue> = attributes
            .filter_map(|attribute| Some((attribute.name.as_str(), call.resolve(&attribute.value)?)))
            .collect();
        let given = inputs.iter().cloned().map(Option::unwrap_or_default);
        let facts = function.inputs.iter().map(String::as_str).zip(given).collect();
        let mut scope = Scope { facts, outer: None };
        let inner = Place { calls: place.calls + 1, bindings: Some(&bindings) };
        for node in &function.nodes {
            self.node(node, &mut scope, &HashMap::new(), prefix, inner);
        }
        function.outputs.iter().map(|output| scope.get(output).cloned().unwrap_or_default()).collect()
    }
}

/// What two branches agree on.
fn agreed((left, right): (Fact, Fact)) -> Fact {
    let shape = match (left.shape, right.shape) {
        (Some(left), Some(right)) if left.len() == right.len() => {
            let same = |(left, right): (&Dim, &Dim)| if left == right { left.clone() } else { Dim::Unknown };
            Some(left.iter().zip(right.iter()).map(same).collect::<Rc<[Dim]>>())
        }
        _ => None,
    };
    let dtype = if left.dtype == right.dtype { left.dtype } else { Default::default() };
    Fact { dtype, shape, ..Fact::default() }
}

impl<'a> Call<'a> {
    fn resolve(&self, value: &'a AttributeValue) -> Option<&'a AttributeValue> {
        match value {
            AttributeValue::Reference(name) => self.bindings?.get(name.as_str()).copied(),
            value => Some(value),
        }
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&'a AttributeValue> {
        self.resolve(self.node.attribute(name)?)
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        if let Some(AttributeValue::Int(value)) = self.attribute(name) { Some(*value) } else { None }
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        if let Some(AttributeValue::Ints(values)) = self.attribute(name) { Some(values) } else { None }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        if let Some(AttributeValue::Text(text)) = self.attribute(name) { std::str::from_utf8(text).ok() } else { None }
    }

    /// Whether the operator is of the standard, and not of someone's extension.
    pub(crate) fn is_standard(&self) -> bool {
        self.node.domain.is_empty()
    }
}
