//! `bisect` between the toy decoder and copies of it in which one node or weight was altered, as a wrong runtime would compute it.

mod support;

use onnx_protobuf::{Message as _, ModelProto};
use pemlc_runtime::{BisectError, Bisection, CheckOptions, Culprit, Drawn, RuntimeKind, Side, Verdict, bisect};
use std::path::{Path, PathBuf};
use support::fault::Fault;
use support::{Outcome, artifact, ort_available};

/// Writes a copy of the graph of `dir` under another folder, after `alter`.
fn altered(dir: &Path, alter: impl FnOnce(&mut ModelProto)) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let folder = dir.join("altered");
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(dir.join("model.onnx.data"), folder.join("model.onnx.data"))?;
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(dir.join("model.onnx"))?)?;
    alter(&mut model);
    let path = folder.join("model.onnx");
    std::fs::write(&path, model.write_to_bytes()?)?;
    Ok(path)
}

/// Changes the operator of the node that computes `value`.
fn replace_operator(model: &mut ModelProto, value: &str, operator: &str) {
    let nodes = &mut model.graph.mut_or_insert_default().node;
    let node = nodes.iter_mut().find(|node| node.output[0] == value).expect("the node is there");
    operator.clone_into(&mut node.op_type);
}

/// Writes other numbers into the initialiser `name`, which lies in the file itself.
fn replace_numbers(model: &mut ModelProto, name: &str, numbers: &[f32]) {
    let tensors = &mut model.graph.mut_or_insert_default().initializer;
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).expect("the initialiser is there");
    assert!(!tensor.raw_data.is_empty(), "{name} is external");
    tensor.raw_data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
}

fn options() -> CheckOptions {
    CheckOptions { drawn: Drawn { cases: 2, ..Drawn::default() }, ..CheckOptions::default() }
}

/// A right artifact on `kind` against an altered copy of its graph on `other`.
fn find(
    kind: RuntimeKind,
    other: RuntimeKind,
    alter: impl FnOnce(&mut ModelProto),
) -> Result<Bisection, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let model = Some(altered(dir.path(), alter)?);
    let sides = [Side::from(kind), Side { runtime: other, model }];
    Ok(bisect(dir.path(), &sides, &options(), &mut |_| ())?)
}

fn culprit(found: &Bisection) -> Result<&Culprit, String> {
    match &found.verdict {
        Verdict::Node(culprit) => Ok(culprit),
        other => Err(format!("no node was found: {other:?}")),
    }
}

/// The runtimes that can be tried here.
fn kinds() -> Vec<RuntimeKind> {
    let ort = ort_available().then_some([RuntimeKind::OrtCpuUnoptimized, RuntimeKind::OrtCpu]);
    [RuntimeKind::Tract].into_iter().chain(ort.into_iter().flatten()).collect()
}

#[test]
fn a_node_that_does_something_else_is_found_on_every_runtime() -> Outcome {
    for kind in kinds() {
        let found = find(kind, kind, |model| replace_operator(model, "conditioned", "Sub"))?;
        let culprit = culprit(&found)?;
        assert_eq!((culprit.node.as_str(), culprit.wrong), ("node_conditioned", Some([false, true])), "{kind}");
        assert!(culprit.inputs.iter().all(|input| input.difference.as_ref().is_some_and(|found| found.is_none())));
        let [one, other] = culprit.element.expected.map(|expected| expected.map(|(number, _)| number));
        assert!(one.is_some() && one == other, "{:?}", culprit.element);
        assert!(!found.passed());
    }
    Ok(())
}

#[test]
fn a_weight_that_differs_is_found_where_it_is_first_read() -> Outcome {
    for kind in kinds() {
        let found = find(kind, kind, |model| replace_numbers(model, "half", &[0.505]))?;
        let culprit = culprit(&found)?;
        // Both token_scores and prefix_scores read it.
        assert_eq!((culprit.node.as_str(), culprit.operator.as_str()), ("node_token_scores", "Mul"), "{kind}");
        assert_eq!(culprit.wrong, Some([false, true]));
        let weight = culprit.inputs.iter().find(|input| input.weight).map(|input| input.name.as_str());
        assert_eq!(weight, Some("half"));
    }
    Ok(())
}

#[test]
fn a_wrong_runtime_on_the_first_side_is_told_as_such() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let model = Some(altered(dir.path(), |model| replace_operator(model, "before", "Identity"))?);
    let sides = [Side { runtime: RuntimeKind::Tract, model }, Side::from(RuntimeKind::Tract)];
    let found = bisect(dir.path(), &sides, &options(), &mut |_| ())?;
    let culprit = culprit(&found)?;
    assert_eq!((culprit.node.as_str(), culprit.wrong), ("node_before", Some([true, false])));
    // The checks, which the first side answers, saw it too.
    assert!(found.failed.iter().any(|failure| failure.starts_with("prefill of sentiment: ")), "{:?}", found.failed);
    Ok(())
}

#[test]
fn a_rounding_of_a_thousandth_is_found_inside_a_product() -> Outcome {
    // As if one runtime rounded a factor to ten bits.
    let found = find(RuntimeKind::Tract, RuntimeKind::Tract, |model| replace_numbers(model, "one", &[1.0005]))?;
    assert_eq!(culprit(&found)?.node, "node_guard");
    Ok(())
}

#[test]
fn two_runtimes_of_a_right_artifact_differ_by_rounding_alone() -> Outcome {
    let kinds = kinds();
    let [one, other, ..] = kinds[..] else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let found = bisect(dir.path(), &[one, other].map(Side::from), &options(), &mut |_| ())?;
    assert!(found.passed(), "{found}");
    let Verdict::Rounding(growth) = &found.verdict else { return Err(format!("{found}").into()) };
    assert!(growth.unreferenced.is_empty() && growth.unread.is_empty() && growth.disputed.is_empty(), "{growth:?}");
    assert!(growth.steps.iter().all(|step| step.after < 1e-5));
    Ok(())
}

#[test]
fn a_graph_that_is_wrong_everywhere_is_no_runtimes_fault() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::WrongLogits)?;
    let model = Some(altered(dir.path(), |_| ())?);
    let sides = [Side::from(RuntimeKind::Tract), Side { runtime: RuntimeKind::Tract, model }];
    let found = bisect(dir.path(), &sides, &options(), &mut |_| ())?;
    assert!(matches!(found.verdict, Verdict::Same) && !found.passed());
    assert!(found.to_string().contains("the graph itself, and no runtime, is wrong"), "{found}");
    Ok(())
}

#[test]
fn one_runtime_alone_is_no_comparison() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let error = bisect(dir.path(), &[RuntimeKind::Tract; 2].map(Side::from), &options(), &mut |_| ()).err();
    assert!(matches!(error, Some(BisectError::SameSides(RuntimeKind::Tract))), "{error:?}");
    Ok(())
}
