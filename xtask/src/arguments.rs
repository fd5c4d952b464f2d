//! The words behind a command: flags and options, each taken once.

/// What is left to read of the command line.
pub(crate) struct Arguments {
    words: Vec<String>,
}

impl Arguments {
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// Takes `--name`; false when it is not there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let found = self.words.iter().position(|word| word == name);
        found.map(|at| self.words.remove(at)).is_some()
    }

    /// Takes `--name VALUE`.
    ///
    /// # Errors
    /// If the value is missing.
    pub(crate) fn option(&mut self, name: &str) -> anyhow::Result<Option<String>> {
        let Some(at) = self.words.iter().position(|word| word == name) else { return Ok(None) };
        self.words.remove(at);
        anyhow::ensure!(at < self.words.len(), "`{name}` needs a value");
        Ok(Some(self.words.remove(at)))
    }

    /// Takes the first word that is no option.
    pub(crate) fn word(&mut self) -> Option<String> {
        let at = self.words.iter().position(|word| !word.starts_with('-'))?;
        Some(self.words.remove(at))
    }

    /// # Errors
    /// If a word is left that nobody asked for.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        match self.words.first() {
            Some(word) => anyhow::bail!("unexpected argument `{word}`; see --help"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;

    #[test]
    fn takes_flags_and_options_and_names_what_is_left() {
        let words = ["--peer", "torch", "--json", "--jsn"].map(String::from).to_vec();
        let mut arguments = Arguments::new(words);
        assert!(arguments.flag("--json"));
        assert!(!arguments.flag("--json"));
        assert_eq!(arguments.option("--peer").unwrap().as_deref(), Some("torch"));
        assert_eq!(arguments.option("--python").unwrap(), None);
        assert_eq!(arguments.word(), None);
        let error = arguments.finish().unwrap_err().to_string();
        assert!(error.contains("`--jsn`"), "{error}");
    }

    #[test]
    fn an_option_without_its_value_is_an_error() {
        let mut arguments = Arguments::new(vec!["--peer".into()]);
        assert!(arguments.option("--peer").is_err());
    }
}
