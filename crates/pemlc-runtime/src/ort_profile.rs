//! Which execution provider ran a graph, read from the profile that ONNX Runtime writes of the first run.

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use serde_json::Value;
use tempfile::TempDir;

/// Nodes that are named in an error.
const NAMED: usize = 3;

/// Profiles the first run of a session and looks at what ran it.
pub(crate) struct FirstRun {
    wanted: &'static str,
    /// Where ONNX Runtime writes the profile; gone once that was looked at.
    folder: Option<TempDir>,
    verified: bool,
}

impl FirstRun {
    /// Has the sessions of `builder` profiled; `wanted` is the provider that must run them.
    pub(crate) fn of(builder: SessionBuilder, wanted: &'static str) -> Result<(Self, SessionBuilder), String> {
        let folder = TempDir::with_prefix("pemlc-profile-").map_err(|error| error.to_string())?;
        let builder = builder.with_profiling(folder.path().join("run")).map_err(|error| error.to_string())?;
        Ok((Self { wanted, folder: Some(folder), verified: false }, builder))
    }

    /// After a successful run: did the provider asked for do the work? Later runs are not profiled.
    pub(crate) fn verify(&mut self, session: &mut Session) -> Result<(), String> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let path = session.end_profiling().map_err(|error| error.to_string())?;
        let profile = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        verify(&profile, self.wanted)?;
        self.verified = true;
        drop(folder);
        Ok(())
    }

    /// The provider, once it is known to have run the graph.
    pub(crate) fn provider(&self) -> Option<&'static str> {
        self.verified.then_some(self.wanted)
    }
}

/// A node of a profile.
struct Event<'a> {
    operator: &'a str,
    name: &'a str,
    provider: &'a str,
    /// An output with more than one number, floating.
    computes: bool,
}

impl<'a> Event<'a> {
    fn of(event: &'a Value) -> Option<Self> {
        let arguments = event.get("args")?;
        let text = |key: &str| arguments.get(key)?.as_str();
        let outputs = arguments.get("output_type_shape").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let several = |shape: &Value| {
            shape.as_array().is_some_and(|sizes| sizes.iter().filter_map(Value::as_u64).product::<u64>() > 1)
        };
        // "float", "float16", "bfloat16", "double".
        let floating = |name: &str| name.contains("float") || name == "double";
        let computes = |output: &Value| {
            output.as_object().is_some_and(|types| types.iter().any(|(name, shape)| floating(name) && several(shape)))
        };
        Some(Self {
            operator: text("op_name")?,
            name: event.get("name")?.as_str()?.trim_end_matches("_kernel_time"),
            provider: text("provider")?,
            computes: outputs.iter().any(computes),
        })
    }

    fn is_product(&self) -> bool {
        self.operator.contains("MatMul") || self.operator.contains("Gemm")
    }
}

/// Fails unless `wanted` ran every matrix product of the run that `profile` describes, and every other node that computes more than one
/// floating number. Bookkeeping on shapes and indices may run elsewhere: the CUDA provider leaves it to the CPU by design.
fn verify(profile: &str, wanted: &str) -> Result<(), String> {
    let events: Vec<Value> =
        serde_json::from_str(profile).map_err(|error| format!("cannot read ONNX Runtime's profile: {error}"))?;
    let nodes: Vec<Event<'_>> = events.iter().filter_map(Event::of).collect();
    let elsewhere: Vec<String> = (nodes.iter())
        .filter(|node| node.provider != wanted && (node.computes || node.is_product()))
        .map(|node| format!("{} ({}) on {}", node.operator, node.name, node.provider))
        .collect();
    if !elsewhere.is_empty() {
        let further = elsewhere.len().saturating_sub(NAMED);
        let further = if further > 0 { format!(" and {further} more") } else { String::new() };
        let named = elsewhere[..elsewhere.len().min(NAMED)].join(", ");
        return Err(format!("not everything ran on {wanted}: {named}{further}"));
    }
    if !nodes.iter().any(Event::is_product) {
        return Err(format!("ONNX Runtime's profile shows no matrix product on {wanted}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::verify;

    const CPU: &str = "CPUExecutionProvider";
    const CUDA: &str = "CUDAExecutionProvider";

    fn event(operator: &str, provider: &str, output: &str) -> String {
        format!(
            r#"{{"cat":"Node","ph":"X","name":"the_{operator}_kernel_time","args":{{"op_name":"{operator}","provider":"{provider}","output_type_shape":[{output}]}}}}"#
        )
    }

    fn of(nodes: &[String]) -> Result<(), String> {
        let session = r#"{"cat":"Session","name":"model_run","args":{}}"#;
        verify(&format!("[{session},{}]", nodes.join(",")), CUDA)
    }

    #[test]
    fn shapes_and_indices_may_be_computed_elsewhere() {
        let nodes = [
            event("Shape", CPU, r#"{"int64":[2]}"#),
            event("Less", CPU, r#"{"bool":[8]}"#),
            event("Cast", CPU, r#"{"float":[]}"#),
            event("FusedMatMul", CUDA, r#"{"float":[2,8]}"#),
        ];
        assert_eq!(of(&nodes), Ok(()));
    }

    #[test]
    fn whatever_computes_must_run_where_it_was_asked_to() {
        let product = event("MatMul", CUDA, r#"{"float":[2,8]}"#);
        let fallen_back = of(&[product.clone(), event("Gemm", CPU, r#"{"float":[2,8]}"#)]);
        let expected = "not everything ran on CUDAExecutionProvider: Gemm (the_Gemm) on CPUExecutionProvider";
        assert_eq!(fallen_back, Err(expected.to_owned()));
        let softmax = || event("Softmax", CPU, r#"{"float16":[1,4]}"#);
        let error = of(&[product, softmax(), softmax(), softmax(), softmax()]).err();
        assert!(
            error
                .as_ref()
                .is_some_and(|error| error.ends_with("Softmax (the_Softmax) on CPUExecutionProvider and 1 more")),
            "{error:?}"
        );
    }

    #[test]
    fn a_profile_without_products_proves_nothing() {
        assert!(of(&[event("Add", CUDA, r#"{"float":[2]}"#)]).is_err());
        assert!(verify("", CUDA).is_err());
    }
}
