//! Licences and sources of the dependencies, against `deny.toml`.
//!
//! cargo-deny does this and more, but takes longer to build than this
//! workspace; it reads the same file. Advisories are left to it.

use anyhow::Context;

use super::{Breach, Repository};
use crate::shell;

const POLICY: &str = "deny.toml";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(repository: &Repository) -> anyhow::Result<Vec<Breach>> {
    let policy = repository.text(POLICY).context("deny.toml is missing")?;
    let allowed = allowed_licences(policy);
    anyhow::ensure!(!allowed.is_empty(), "deny.toml allows no licence");

    let mut breaches = Vec::new();
    // What this machine's target needs: that is what is built and shipped.
    let host = host()?;
    let metadata = shell::metadata(&["--filter-platform", &host])?;
    let packages = metadata["packages"].as_array().context("cargo metadata: no packages")?;
    for package in packages {
        let field = |key: &str| package[key].as_str().unwrap_or_default();
        let named = format!("{} {}", field("name"), field("version"));
        if !satisfied(field("license"), &allowed) {
            let what = format!("{named}: licence `{}` is not allowed", field("license"));
            breaches.push(Breach::new(POLICY, 0, what));
        }
        if !package["source"].is_null() && field("source") != REGISTRY {
            let what = format!("{named}: comes from `{}`", field("source"));
            breaches.push(Breach::new("Cargo.lock", 0, what));
        }
    }
    Ok(breaches)
}

fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = shell::output(shell::command(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("rustc -vV names no host")
}

/// The strings in `allow = [ … ]` below `[licenses]`.
fn allowed_licences(policy: &str) -> Vec<&str> {
    let section = policy.split_once("[licenses]").map_or("", |(_, rest)| rest);
    let list = section.split_once("allow = [").map_or("", |(_, rest)| rest);
    let list = list.split_once(']').map_or("", |(list, _)| list);
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

/// Whether the SPDX expression can be met with the allowed licences.
fn satisfied(expression: &str, allowed: &[&str]) -> bool {
    // Old crates write MIT/Apache-2.0 for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    parser.any() && parser.words.is_empty()
}

/// any = all (OR all)*, all = one (AND one)*, one = ( any ) | licence (WITH exception)?
struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [&'a str],
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        self.words = &self.words[usize::from(found)..];
        found
    }

    fn any(&mut self) -> bool {
        let mut met = self.all();
        while self.take("OR") {
            met |= self.all();
        }
        met
    }

    fn all(&mut self) -> bool {
        let mut met = self.one();
        while self.take("AND") {
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let met = self.any();
            return self.take(")") && met;
        }
        let Some((licence, rest)) = self.words.split_first() else { return false };
        self.words = rest;
        let mut name = (*licence).to_owned();
        if self.take("WITH") {
            let Some((exception, rest)) = self.words.split_first() else { return false };
            self.words = rest;
            name = format!("{name} WITH {exception}");
        }
        self.allowed.contains(&name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed_licences, satisfied};

    #[test]
    fn the_list_is_read_without_its_comments() {
        let policy = "[bans]\nallow = [\"x\"]\n[licenses]\nallow = [\n  \"MIT\", # \"GPL\"\n  \"BSL-1.0\",\n]\n";
        assert_eq!(allowed_licences(policy), ["MIT", "BSL-1.0"]);
    }

    #[test]
    fn expressions_are_met_as_spdx_says() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        let check = |expression: &str, expected: bool| {
            assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
        };
        check("MIT", true);
        check("GPL-3.0", false);
        check("GPL-3.0 OR MIT", true);
        check("MIT/GPL-3.0", true);
        check("GPL-3.0 AND MIT", false);
        check("(MIT OR GPL-3.0) AND Unicode-3.0", true);
        check("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true);
        check("Apache-2.0 WITH other-exception", false);
        check("", false);
        check("(MIT", false);
    }
}
