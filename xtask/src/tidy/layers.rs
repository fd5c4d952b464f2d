//! Who may know whom.

use anyhow::Context;
use serde_json::Value;

use super::{Breach, Repository};
use crate::shell;

/// The crates from the ground up. Each may depend on those of lower rows only,
/// for its tests and examples too: whoever takes one crate gets what is below.
const LAYERS: [&[&str]; 5] = [
    &["metamask-random"],
    &["metamask-ops"],
    &[
        "metamask-data",
        "metamask-augment",
        "metamask-encoders",
        "metamask-objectives",
        "metamask-optim",
        "metamask-eval",
    ],
    &["metamask-train", "metamask-report"],
    &["metamask-cli"],
];

/// Tests may know every crate.
const TESTS: &str = "metamask-tests";

/// Stands in for a GPU's driver, and knows nobody.
const EMULATOR: &str = "metamask-cuda-emulator";

pub(super) fn check(_: &Repository) -> anyhow::Result<Vec<Breach>> {
    let metadata = shell::metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata: no packages")?;
    let mut breaches = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("cargo metadata: a package has no name")?;
        breaches.extend(breaches_of(name, &workspace_dependencies(package)));
    }
    Ok(breaches)
}

/// The dependencies that lie in this repository, of every kind.
fn workspace_dependencies(package: &Value) -> Vec<&str> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        .filter(|one| one["path"].is_string())
        .filter_map(|one| one["name"].as_str())
        .collect()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn breaches_of(package: &str, dependencies: &[&str]) -> Vec<Breach> {
    let path = match package {
        "xtask" => "xtask/Cargo.toml".to_owned(),
        TESTS => "tests/Cargo.toml".to_owned(),
        EMULATOR => "tests/emulator/Cargo.toml".to_owned(),
        _ => format!("crates/{package}/Cargo.toml"),
    };
    let breach = |what: String| Breach::new(path.clone(), 0, what);
    match (package, layer(package)) {
        (TESTS, _) => Vec::new(),
        ("xtask" | EMULATOR, _) => dependencies
            .iter()
            .map(|name| breach(format!("{package} knows no crate of the workspace, not `{name}`")))
            .collect(),
        (_, None) => vec![breach(format!("give `{package}` a layer in xtask/src/tidy/layers.rs"))],
        (_, Some(own)) => dependencies
            .iter()
            .filter(|name| layer(name).is_none_or(|below| below >= own))
            .map(|name| breach(format!("`{package}` may not know `{name}`, which is not below it")))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::breaches_of;

    #[test]
    fn dependencies_point_downwards() {
        let check = |package: &str, dependency: &str, allowed: bool| {
            let breaches = breaches_of(package, &[dependency]);
            assert_eq!(breaches.is_empty(), allowed, "{package} → {dependency}");
        };
        check("metamask-optim", "metamask-ops", true);
        check("metamask-optim", "metamask-encoders", false);
        check("metamask-ops", "metamask-optim", false);
        check("metamask-train", "metamask-eval", true);
        check("metamask-cli", "metamask-train", true);
        check("xtask", "metamask-random", false);
        check("metamask-tests", "metamask-train", true);
        check("metamask-new", "metamask-ops", false);
    }
}
