//! Presets: configurations with a name and a header, one file each.

use crate::{
    config::Config,
    failure::{Code, Failure},
};

/// A configuration that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name, the file's without its ending.
    pub name: &'static str,
    /// The file: a header that says what it is for and how it departs from the
    /// paper, then the settings that matter. What it leaves out has its default.
    pub text: &'static str,
}

/// What `pretrain` runs unless told otherwise.
pub const DEFAULT: &str = "quickstart";

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        /// All presets.
        pub const ALL: &[Preset] = &[$(
            Preset { name: $name, text: include_str!(concat!("../presets/", $name, ".toml")) }
        ),+];
    };
}
presets!["quickstart", "cifar10-simclr-metamask"];

impl Preset {
    /// The preset of a name.
    ///
    /// # Errors
    /// If there is none; the message names the nearest one.
    pub fn named(name: &str) -> Result<&'static Self, Failure> {
        if let Some(preset) = ALL.iter().find(|preset| preset.name == name) {
            return Ok(preset);
        }
        let nearest =
            ALL.iter().min_by_key(|preset| strsim::damerau_levenshtein(preset.name, name));
        let nearest = nearest.expect("there are presets").name;
        let message = format!("unknown preset `{name}`, nearest is `{nearest}`");
        Err(Failure::new(Code::Usage, message).help("`metamask presets` lists them"))
    }

    /// What it is for, in a line.
    pub fn title(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.split_once(": ").map_or("", |(_, title)| title)
    }

    /// Its configuration with overrides.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn config(&self, overrides: &[String]) -> Result<Config, Failure> {
        Config::read(self.text, &format!("preset {}", self.name), overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_reads_and_says_what_it_is_for() {
        for preset in ALL {
            preset.config(&[]).unwrap_or_else(|failure| panic!("{}: {failure}", preset.name));
            assert!(preset.text.starts_with(&format!("# {}: ", preset.name)));
            for word in ["Paper cell", "Command", "Departs"] {
                assert!(preset.text.contains(&format!("\n# {word}")), "{}: {word}", preset.name);
            }
        }
    }

    #[test]
    fn an_unknown_preset_names_the_nearest_one() {
        let failure = Preset::named("quikstart").expect_err("there is none");
        assert!(failure.message.contains("nearest is `quickstart`"), "{failure}");
    }
}
