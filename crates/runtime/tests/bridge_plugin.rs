//! The bridge's own tests, in the Python that bots run in.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use astrfleet_testkit::parts::astrbot;

#[tokio::test]
async fn the_plugin_passes_its_own_tests() {
    let python = astrbot().await.python;
    let folder = tempfile::tempdir().unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bridge").canonicalize().unwrap();
    symlink(&plugin, folder.path().join("astrfleet_bridge")).unwrap();
    let ran = Command::new(python)
        .args(["-m", "unittest", "-v", "astrfleet_bridge.tests.test_asking", "astrfleet_bridge.tests.test_bridge"])
        .current_dir(folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("Ran 26 tests"), "{said}");
}
