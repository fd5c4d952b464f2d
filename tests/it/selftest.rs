//! `metamask selftest` tells the user whether the promises hold on his machine.

use crate::support::{Metamask, sorted_names};

#[test]
fn a_selftest_tells_of_each_promise_and_leaves_nothing_behind() {
    let Some(metamask) = Metamask::find() else { return };
    std::fs::create_dir(metamask.path("room")).expect("made");
    let finished = metamask.succeed(&["selftest", "--kill", "2", "--dir", "room"]);
    for line in [
        ["repeatability", "1 of 1  yes"],
        ["thread independence", "3 of 3  yes"],
        ["restart replay", "2 of 2  yes"],
    ] {
        let has = |text: &str| line.iter().all(|word| text.contains(word));
        assert!(finished.stdout.lines().any(has), "{line:?} in\n{}", finished.stdout);
    }
    assert!(finished.stderr.contains("kill 2 of 2"), "progress: {}", finished.stderr);
    assert!(sorted_names(&metamask.path("room")).is_empty(), "its runs are removed");
}

#[test]
fn a_selftest_without_a_place_to_run_in_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    let finished = metamask.run(&["selftest", "--dir", "gone"]);
    crate::bad_input::assert_refused(&finished, 73, "OUT-DIR", &["gone", "failed to make"]);
}
