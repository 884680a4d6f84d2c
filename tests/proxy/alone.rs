//! A test that measures what its whole process takes runs in one of its own: the others take memory as well.

use std::process::Command;

const ALONE: &str = "SWITCHYARD_TEST_ALONE";

/// Runs the test that this is called by in a process of its own, and fails as that does.
pub fn alone<F: FnOnce()>(test: F) {
    // The path of the test, with the name of the binary before it.
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var_os(ALONE).is_some_and(|of| of == name) {
        return test();
    }
    let mut process = Command::new(std::env::current_exe().unwrap());
    let ended = process.args([name, "--exact", "--nocapture"]).env(ALONE, name).output().unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.contains("1 passed"), "{name} by itself: {said}");
}
