//! `hub:ORG/NAME@COMMIT`: somebody's weights on the Hugging Face hub.
//!
//! The file is `model.safetensors` of that commit. Nobody publishes its digest in a
//! place that we know, so the one of its first use counts: it is kept beside the file
//! and said to be unpinned. What the tensors are is for others to check.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::DataError;
use crate::file;
use crate::manifest::is_hex;
use crate::pins::Pins;
use crate::places::Places;
use crate::source::digests;

/// A commit of a model's repository on the hub.
///
/// ```
/// use metamask_data::HubWeights;
/// let name = "hub:timm/resnet18.a1_in1k@491b427b45c94c7fb0e78b5474cc919aff584bbf";
/// assert_eq!(name.parse::<HubWeights>()?.to_string(), name);
/// assert!("hub:timm/resnet18.a1_in1k@main".parse::<HubWeights>().is_err());
/// # Ok::<(), metamask_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubWeights {
    owner: String,
    name: String,
    commit: String,
}

/// The file of a repository that is taken.
pub(crate) const FILE: &str = "model.safetensors";
/// The longest file of weights that is fetched: twice a ResNet-152 with its classifier.
pub(crate) const LIMIT: u64 = 512 << 20;
const LONGEST_NAME: usize = 96;

impl FromStr for HubWeights {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let is_name = |part: &str| {
            part.len() <= LONGEST_NAME
                && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let parts = text.strip_prefix("hub:").and_then(|rest| {
            let (repository, commit) = rest.split_once('@')?;
            let (owner, name) = repository.split_once('/')?;
            Some((owner, name, commit))
        });
        match parts {
            Some((owner, name, commit))
                if is_name(owner) && is_name(name) && is_hex(commit, 40) =>
            {
                let [owner, name, commit] = [owner, name, commit].map(str::to_owned);
                Ok(Self { owner, name, commit })
            }
            _ => {
                let shown = text.escape_debug();
                let message = format!(
                    "`{shown}`: expected `hub:ORG/NAME@COMMIT`, the commit as 40 hexadecimal digits"
                );
                let help = "a branch can move; the hub's page of a model shows its commits under \
                            \"Files and versions\""
                    .to_owned();
                Err(DataError { help: Some(help), ..DataError::request(message) })
            }
        }
    }
}

impl fmt::Display for HubWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, name, commit } = self;
        write!(f, "hub:{owner}/{name}@{commit}")
    }
}

impl HubWeights {
    /// The file on this machine: from our cache, the Hugging Face cache (which is only
    /// read), or fetched now.
    ///
    /// # Errors
    /// If it is nowhere, cannot be fetched, or is another than at its first use.
    pub fn find(&self, places: &Places) -> Result<PathBuf, DataError> {
        let Self { owner, name, commit } = self;
        let kept = places
            .cache_dir
            .as_ref()
            .map(|cache| cache.join("weights").join(owner).join(name).join(commit));
        let in_hub_cache = places.hub_cache_dir.as_ref().map(|cache| {
            let folder = cache.join(format!("models--{owner}--{name}"));
            folder.join("snapshots").join(commit).join(FILE)
        });
        let ours = kept.as_ref().map(|folder| folder.join(FILE));
        let mut looked = Vec::new();
        for path in [ours, in_hub_cache].into_iter().flatten() {
            if path.is_file() {
                self.check(&path, kept.as_deref(), places)?;
                return Ok(path);
            }
            looked.extend(path.parent().map(Path::to_owned));
        }
        #[cfg(feature = "hub")]
        if let (Some(network), Some(folder)) = (&places.network, &kept) {
            crate::hub::fetch_weights(self, network, folder, &places.report)?;
            return Ok(folder.join(FILE));
        }
        let why = match cfg!(feature = "hub") {
            true => "and nothing is fetched offline",
            false => "and this build fetches nothing (it was built without the feature `hub`)",
        };
        let message = match looked.is_empty() {
            true => format!("`{self}`: expected a cache to keep it in, got none"),
            false => format!("`{self}`: no {FILE} in {}, {why}", file::list(&looked)),
        };
        let help = format!("download the repository's {FILE} and name that file");
        Err(DataError::missing(message, Some(help)))
    }

    /// `ORG/NAME`.
    #[cfg(feature = "hub")]
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The commit, 40 hexadecimal digits.
    #[cfg(feature = "hub")]
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// Holds a file against its first use, or makes this its first use.
    fn check(&self, path: &Path, kept: Option<&Path>, places: &Places) -> Result<(), DataError> {
        let length = fs::metadata(path).map_err(|error| file::unreadable(path, &error))?.len();
        if length > LIMIT {
            let expected = format!("weights of at most {} MiB", LIMIT >> 20);
            return Err(DataError::content(path, format!("{length} bytes"), expected));
        }
        let (bytes, found, _) = digests(path)?;
        let pins = kept.map(Pins::read).transpose()?;
        match pins.as_ref().and_then(|pins| pins.file(FILE)) {
            Some((_, expected)) if expected == found => return Ok(()),
            Some((_, expected)) => {
                let error = DataError::hash(path, &found, &expected);
                let help = format!("it differs from its first use; remove `{}`", path.display());
                return Err(DataError { help: Some(help), ..error });
            }
            None => {}
        }
        if let (Some(folder), Some(mut pins)) = (kept, pins) {
            fs::create_dir_all(folder).map_err(|error| DataError::io(folder, "write", &error))?;
            pins.keep_file(FILE, bytes, &found)?;
        }
        places.report.note(unpinned(self, &found));
        Ok(())
    }
}

/// What is said at the first use of weights.
pub(crate) fn unpinned(weights: &HubWeights, sha256: &str) -> String {
    format!("{weights}: unpinned, nobody published its digest; from now on it is sha256 {sha256}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn only_a_pinned_commit_of_a_plain_name_is_taken() {
        let parse = |text: &str| text.parse::<HubWeights>();
        for good in ["timm/resnet18.a1_in1k", "a/b", "microsoft/resnet-50"] {
            let text = format!("hub:{good}@{COMMIT}");
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        let long = "a".repeat(97);
        for repository in
            ["a", "a/b/c", "../b", "a/..", "a/.b", "/b", "a/", "a b/c", "a/b\n", &*long]
        {
            let error = parse(&format!("hub:{repository}@{COMMIT}")).unwrap_err();
            assert!(error.message.contains("hub:ORG/NAME@COMMIT"), "{error}");
            assert!(!error.message.contains('\n'), "{error}");
        }
        for commit in ["main", &COMMIT[1..], &COMMIT.to_uppercase(), "", "refs/pr/1"] {
            assert!(parse(&format!("hub:a/b@{commit}")).is_err(), "{commit}");
        }
        assert!(parse("hub:a/b").is_err() && parse("a/b").is_err());
    }

    #[test]
    fn the_hub_s_cache_is_read_and_its_first_use_counts() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = dir.path().join("hf/models--a--b/snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        let file = snapshot.join(FILE);
        fs::write(&file, "weights").unwrap();
        let places = Places {
            cache_dir: Some(dir.path().join("cache")),
            hub_cache_dir: Some(dir.path().join("hf")),
            ..Places::default()
        };
        let weights: HubWeights = format!("hub:a/b@{COMMIT}").parse().unwrap();
        assert_eq!(weights.find(&places).unwrap(), file);
        assert_eq!(weights.find(&places).unwrap(), file, "the same again");
        fs::write(&file, "others").unwrap();
        let error = weights.find(&places).unwrap_err();
        assert_eq!(error.code, "DATA-HASH");
        fs::remove_file(&file).unwrap();
        let error = weights.find(&places).unwrap_err();
        assert_eq!(error.code, "DATA-MISSING");
        assert!(error.message.contains("models--a--b"), "{error}");
    }
}
