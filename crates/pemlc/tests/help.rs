//! What every command says of itself.

mod common;

macro_rules! help {
    ($($name:ident: $($argument:literal)*;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), common::succeed([$($argument,)* "--help"]));
        }
    )*};
}

help! {
    pemlc: ;
    train: "train";
    import: "import";
    export: "export";
    check: "check";
    evaluate: "evaluate";
    run: "run";
    inspect: "inspect";
    diff: "diff";
    snapshot: "snapshot";
    tasks: "tasks";
    methods: "methods";
    search: "search";
    compare: "compare";
    report: "report";
}

#[test]
fn methods_are_listed() {
    insta::assert_snapshot!("list_of_methods", common::succeed(["methods"]));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        vec!["trian"],
        vec!["export", "a"],
        vec!["check", "a", "--runtime", "ort"],
        vec!["check", "a", "--tolerance", "0"],
    ] {
        assert_eq!(common::run(&arguments).status.code(), Some(2), "{arguments:?}");
    }
    insta::assert_snapshot!(common::describe(&common::run(["check", "a", "--runtime", "ort"]), std::path::Path::new("/nowhere")), @r"
    exit code: 2
    -- stdout
    -- stderr
    error: invalid value 'ort' for '--runtime <RUNTIME>': unknown runtime `ort`: expected ort-cpu, ort-cpu-unoptimized, ort-cuda or tract

    For more information, try '--help'.
    ");
}
