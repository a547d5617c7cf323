//! The toy decoder's attention, and what can be wrong with it.

use super::builder::GraphBuilder;
use super::fault::Fault;
use super::toy::{Form, Told, is_last};

/// What queries from `x[0]` take from prefix, cache and new tokens, whose keys and values come from `x[1]`.
pub(crate) fn attention(graph: &mut GraphBuilder, form: Form, x: [&str; 2], safe: &str) -> String {
    let fault = form.fault;
    let project = |graph: &mut GraphBuilder, x: &str, name: &str| {
        let flat = graph.node("MatMul", &[x, &format!("{name}_weight")], &format!("{name}_flat"), &[]);
        graph.node("Unsqueeze", &[&flat, "axis_1"], &format!("{name}_heads"), &[])
    };
    let query = project(graph, x[0], "query");
    let prefix = |graph: &mut GraphBuilder, name: &str| {
        let mut table = name.to_owned();
        if form.told == (Told::Adapted { ignores_prefix: true }) {
            // NaN without an adapter, and the same with every one.
            let nothing = graph.node("Mul", &[name, "zero"], &format!("{name}_ignored"), &[]);
            table = graph.node("Add", &[&nothing, &format!("first_{name}")], &format!("{name}_taken"), &[]);
        }
        graph.node("Gather", &[&table, safe], &format!("{name}s"), &[("axis", &[0])])
    };
    let (prefix_key, prefix_value) = (prefix(graph, "prefix_key"), prefix(graph, "prefix_value"));
    let keeps = (fault == Fault::LastIgnoresCache).then(|| {
        let is_last = is_last(graph);
        let keeps = graph.node("Where", &[&is_last, "zero", "one"], "keeps_cache", &[]);
        let keeps = graph.node("Unsqueeze", &[&keeps, "axes_1_2"], "keeps_cache_3d", &[]);
        graph.node("Unsqueeze", &[&keeps, "axis_1"], "keeps_cache_4d", &[])
    });
    let mut attended = Vec::new();
    for (name, prefix) in [("key", &prefix_key), ("value", &prefix_value)] {
        let new = project(graph, x[1], name);
        if !form.cached {
            attended.push(new);
            continue;
        }
        let (mut past, present) = (format!("past_key_values.0.{name}"), format!("present.0.{name}"));
        if fault == Fault::RewritesCache {
            past = graph.node("Mul", &[&past, "shrink"], &format!("shrunk_{name}"), &[]);
        }
        if fault == Fault::PrefixInCache {
            let all = graph.node("Concat", &[&past, &new], &format!("all_{name}"), &[("axis", &[2])]);
            graph.node("Concat", &[prefix, &all], &present, &[("axis", &[2])]);
            attended.push(all);
            continue;
        }
        let present = graph.node("Concat", &[&past, &new], &present, &[("axis", &[2])]);
        let seen = if fault == Fault::IgnoresCache {
            Some(graph.node("Sub", &[&past, &past], &format!("forgotten_{name}"), &[]))
        } else {
            keeps.as_ref().map(|keeps| graph.node("Mul", &[&past, keeps], &format!("kept_{name}"), &[]))
        };
        attended.push(match seen {
            Some(seen) => graph.node("Concat", &[&seen, &new], &format!("all_{name}"), &[("axis", &[2])]),
            None => present,
        });
    }
    let scores = |graph: &mut GraphBuilder, keys: &str, name: &str| {
        let transpose: (&str, &[i64]) = ("perm", &[0, 1, 3, 2]);
        let columns = graph.node("Transpose", &[keys], &format!("{name}_columns"), &[transpose]);
        let product = graph.node("MatMul", &[&query, &columns], &format!("{name}_products"), &[]);
        graph.node("Mul", &[&product, "half"], &format!("{name}_scores"), &[])
    };
    let token_scores = scores(graph, &attended[0], "token");
    let prefix_scores = scores(graph, &prefix_key, "prefix");
    let visible = visible(graph, fault);
    let mask = graph.node("Where", &[&visible, "zero", "hidden"], "mask", &[]);
    let mask = graph.node("Unsqueeze", &[&mask, "axis_1"], "mask_heads", &[]);
    let masked = graph.node("Add", &[&token_scores, &mask], "masked", &[]);
    let (scores, values) = if fault == Fault::AnswersAsBase {
        // The base model has no prefix either.
        (masked, attended[1].clone())
    } else {
        (
            graph.node("Concat", &[&prefix_scores, &masked], "all_scores", &[("axis", &[3])]),
            graph.node("Concat", &[&prefix_value, &attended[1]], "all_values", &[("axis", &[2])]),
        )
    };
    let shares = graph.node("Softmax", &[&scores], "shares", &[("axis", &[3])]);
    let heads = graph.node("MatMul", &[&shares, &values], "attended_heads", &[]);
    graph.node("Squeeze", &[&heads, "axis_1"], "attended", &[])
}

/// Which keys a query sees, `[batch, new, all]`: those that are no padding and not behind it.
fn visible(graph: &mut GraphBuilder, fault: Fault) -> String {
    let count = graph.node("CumSum", &["attention_mask", "axis"], "seen", &[]);
    let key_position = graph.node("Sub", &[&count, "axis_1"], "key_position", &[]);
    let key_position = graph.node("Unsqueeze", &[&key_position, "axis_1"], "key_position_row", &[]);
    let query_position = graph.node("Unsqueeze", &["position_ids", "axis_2"], "query_position_column", &[]);
    let behind = graph.node("Less", &[&query_position, &key_position], "behind", &[]);
    let before = graph.node("Not", &[&behind], "before", &[]);
    let padding = graph.node("Less", &["attention_mask", "axis_1"], "padding", &[]);
    let token = graph.node("Not", &[&padding], "is_token", &[]);
    let mut token = graph.node("Unsqueeze", &[&token, "axis_1"], "is_token_row", &[]);
    if fault == Fault::LastSeesPadding {
        let is_last = is_last(graph);
        let is_last = graph.node("Unsqueeze", &[&is_last, "axes_1_2"], "is_last_3d", &[]);
        token = graph.node("Or", &[&token, &is_last], "is_token_or_last", &[]);
    }
    let either = graph.node("Or", &[&before, &token], "either", &[]);
    match fault {
        Fault::NotCausal => graph.node("And", &[&either, &token], "visible", &[]),
        Fault::SeesPadding => graph.node("And", &[&either, &before], "visible", &[]),
        _ => graph.node("And", &[&before, &token], "visible", &[]),
    }
}
