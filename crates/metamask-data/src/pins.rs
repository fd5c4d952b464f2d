//! What the first fetch of files without published digests found, kept beside
//! them: later fetches must find the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::manifest::is_hex;

const NAME: &str = "unpinned.toml";
const LIMIT: u64 = 1 << 20;

/// The commits and digests of first use.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// Where they are written.
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// By repository.
    #[serde(default)]
    commit: BTreeMap<String, String>,
    /// By path.
    #[serde(default)]
    file: BTreeMap<String, File>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bytes: u64,
    sha256: String,
}

impl Pins {
    /// The pins of the folder that fetched files are kept in; none if there is no file.
    pub(crate) fn read(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok(Self { path, kept: Kept::default() });
        }
        let wrong = |found: &str| {
            let error = DataError::content(&path, found, "commits and digests of first use");
            let help = format!("remove `{}` to take what the hub has now", path.display());
            DataError { help: Some(help), ..error }
        };
        let length =
            fs::metadata(&path).map_err(|error| DataError::io(&path, "read", &error))?.len();
        let text = match length <= LIMIT {
            true => {
                fs::read_to_string(&path).map_err(|error| DataError::io(&path, "read", &error))?
            }
            false => return Err(wrong("too many bytes")),
        };
        let kept: Kept = toml::from_str(&text).map_err(|_| wrong("no such list"))?;
        let fits = kept.commit.values().all(|commit| is_hex(commit, 40))
            && kept.file.values().all(|file| is_hex(&file.sha256, 64));
        match fits {
            true => Ok(Self { path, kept }),
            false => Err(wrong("a commit or digest of another form")),
        }
    }

    #[cfg(feature = "hub")]
    pub(crate) fn commit(&self, repository: &str) -> Option<String> {
        self.kept.commit.get(repository).cloned()
    }

    pub(crate) fn file(&self, path: &str) -> Option<(u64, String)> {
        self.kept.file.get(path).map(|file| (file.bytes, file.sha256.clone()))
    }

    #[cfg(feature = "hub")]
    pub(crate) fn keep_commit(&mut self, repository: &str, commit: &str) -> Result<(), DataError> {
        self.kept.commit.insert(repository.to_owned(), commit.to_owned());
        self.write()
    }

    pub(crate) fn keep_file(
        &mut self,
        path: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<(), DataError> {
        let file = File { bytes, sha256: sha256.to_owned() };
        self.kept.file.insert(path.to_owned(), file);
        self.write()
    }

    fn write(&self) -> Result<(), DataError> {
        use std::io::Write;

        let failed = |error: std::io::Error| DataError::io(&self.path, "write", &error);
        let folder = self.path.parent().expect("a file in a folder");
        let text = toml::to_string(&self.kept).expect("strings and numbers are TOML");
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
