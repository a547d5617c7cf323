#[test]
fn dump() {
    for (name, text) in pemlc_artifact::schemas() { std::fs::write(format!("/tmp/hardening/{name}"), text).unwrap(); }
}
