//! `${VAR}` and `${VAR:-default}` in paths.

use std::path::{Path, PathBuf};

/// Why a path's variables cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The variable is not set and has no default.
    #[error("the environment variable {name} is not set: set it, or write ${{{name}:-default}} (in {text:?})")]
    Unset {
        /// Variable name.
        name: String,
        /// The text that names it.
        text: String,
    },
    /// No closing brace.
    #[error("`${{` without `}}` in {text:?}")]
    Unclosed {
        /// The text.
        text: String,
    },
    /// Not a variable name.
    #[error("{name:?} is not a variable name (letters, digits, `_`) in {text:?}")]
    BadName {
        /// What was between the braces.
        name: String,
        /// The text.
        text: String,
    },
}

/// Replaces `${NAME}` by `lookup(NAME)` and `${NAME:-default}` by the same or, when unset or empty, by `default`.
///
/// A `$` that no `{` follows stays. A default ends at the first `}` and is not expanded itself.
pub fn expand_variables(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, remainder) =
            after.split_once('}').ok_or_else(|| ExpandError::Unclosed { text: text.to_owned() })?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable_name(name) {
            return Err(ExpandError::BadName { name: name.to_owned(), text: text.to_owned() });
        }
        expanded.push_str(before);
        match (lookup(name), default) {
            (Some(value), None) => expanded.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => expanded.push_str(&value),
            (_, Some(default)) => expanded.push_str(default),
            (None, None) => return Err(ExpandError::Unset { name: name.to_owned(), text: text.to_owned() }),
        }
        rest = remainder;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// A path of a run file: variables taken from the environment, then joined to `base_dir` (the run file's folder) unless absolute.
pub fn expand_path(text: &str, base_dir: &Path) -> Result<PathBuf, ExpandError> {
    Ok(base_dir.join(expand_variables(text, |name| std::env::var(name).ok())?))
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str) -> Result<String, ExpandError> {
        expand_variables(text, |name| match name {
            "DATA" => Some("/data".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_and_defaults() {
        assert_eq!(expand("${DATA}/a.jsonl").unwrap(), "/data/a.jsonl");
        assert_eq!(expand("${DATA:-x}/${NONE:-y z}.csv").unwrap(), "/data/y z.csv");
        assert_eq!(expand("${EMPTY}|${EMPTY:-filled}|${NONE:-}").unwrap(), "|filled|");
        assert_eq!(expand("$DATA costs $5").unwrap(), "$DATA costs $5");
    }

    #[test]
    fn errors_say_what_to_do() {
        let message = |text: &str| expand(text).unwrap_err().to_string();
        insta::assert_snapshot!(message("${NONE}/a"), @r#"the environment variable NONE is not set: set it, or write ${NONE:-default} (in "${NONE}/a")"#);
        insta::assert_snapshot!(message("a/${DATA"), @r#"`${` without `}` in "a/${DATA""#);
        insta::assert_snapshot!(message("${a-b}"), @r#""a-b" is not a variable name (letters, digits, `_`) in "${a-b}""#);
    }

    #[test]
    fn relative_paths_join_the_run_files_folder() {
        assert_eq!(expand_path("a/b.csv", Path::new("/runs")).unwrap(), Path::new("/runs/a/b.csv"));
        assert_eq!(expand_path("/a/b.csv", Path::new("/runs")).unwrap(), Path::new("/a/b.csv"));
    }

    proptest! {
        #[test]
        fn text_without_a_variable_is_unchanged(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text).unwrap(), text);
        }

        #[test]
        fn never_panics(text in "[${}:a-zA-Z-]{0,30}") {
            let _ = expand(&text);
        }
    }
}
