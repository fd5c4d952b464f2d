//! Manifests: what is known about a data set before any of its files is opened.
//!
//! One TOML file a set, in `data/manifests` and embedded in the program; a
//! user's own file describes a set of his own in the same words. A manifest
//! says how the original files are laid out, what they are called, how large
//! they are, which digests were published, and where they can be fetched.
//!
//! Manifests may come from others: names in them are plain relative paths, or
//! the manifest is refused.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::DataError;
use crate::split::Split;

/// A data set that lies in files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The data set's name.
    pub name: String,
    /// One line: what it shows.
    pub title: String,
    /// Under what terms the images may be used.
    pub licence: String,
    /// Whose it is and where it is described.
    pub source: String,
    /// Rows and columns of its images.
    pub side: u32,
    /// The classes' names in the order of the labels; empty if the files say.
    #[serde(default)]
    pub classes: Vec<String>,
    /// How many images were published.
    pub images: Counts,
    /// How the original files are laid out.
    pub layout: Layout,
    /// Original files with known content.
    #[serde(default)]
    pub file: Vec<KnownFile>,
    /// Where the original files, or the archive with them, can be fetched.
    #[serde(default)]
    pub download: Vec<Download>,
    /// The same images as parquet files on the Hugging Face hub.
    #[serde(default)]
    pub hub: Vec<HubRepository>,
}

/// Numbers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Labelled, to learn from.
    pub train: u32,
    /// Labelled, to judge by.
    pub test: u32,
    /// Without labels.
    #[serde(default)]
    pub unlabelled: u32,
}

/// The layout of the original files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Layout {
    /// Records of labels and red, green and blue planes.
    Cifar {
        /// The folder in the archive.
        folder: String,
        /// Files with training images, in their order.
        train: Vec<String>,
        /// Files with test images.
        test: Vec<String>,
        /// Label bytes of a record; the last one is the class.
        label_bytes: usize,
        /// Names that only unpacked or packed pickles have.
        #[serde(default)]
        pickles: Vec<String>,
    },
    /// Column-major planes, and labels from 1 in files of their own.
    Stl {
        /// The folder in the archive.
        folder: String,
    },
    /// IDX: a file of images and one of labels for each split.
    Idx {
        /// Where torchvision puts the files below a root.
        folder: String,
        /// Training images and labels.
        train: [String; 2],
        /// Test images and labels.
        test: [String; 2],
        /// A folder where a package of the system puts the files.
        installed: Option<String>,
    },
    /// JPEG files, classes by WordNet id, `val_annotations.txt`.
    TinyImagenet {
        /// The folder in the archive.
        folder: String,
    },
}

/// An original file whose content is known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFile {
    /// Its name, unpacked.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal, if it was published.
    pub sha256: Option<String>,
    /// Its MD5, which finds accidents and no forgery, if it was published.
    pub md5: Option<String>,
}

/// A file to fetch from the data set's own page.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Its address.
    pub url: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal; this or the MD5 is there.
    pub sha256: Option<String>,
    /// Its MD5.
    pub md5: Option<String>,
}

/// Parquet files in a data set's repository on the hub.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRepository {
    /// `owner/name`.
    pub repository: String,
    /// The commit, 40 hexadecimal digits; without one the first fetch keeps its own.
    pub commit: Option<String>,
    /// The branch that the first fetch follows where no commit is given.
    pub branch: Option<String>,
    /// The column with the pictures.
    pub image: String,
    /// The column with the classes; none where the images have none.
    pub label: Option<String>,
    /// The files.
    pub file: Vec<HubFile>,
}

/// One parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// Which images it holds.
    pub split: Split,
    /// Its path in the repository.
    pub path: String,
    /// Its length, if it was published.
    pub bytes: Option<u64>,
    /// Its SHA-256, if it was published.
    pub sha256: Option<String>,
}

impl Download {
    /// The file's own name: the last part of the address.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().expect("checked when the manifest was read")
    }
}

/// The embedded manifests.
const EMBEDDED: [(&str, &str); 6] = [
    ("mnist", include_str!("../../../data/manifests/mnist.toml")),
    ("fashion-mnist", include_str!("../../../data/manifests/fashion-mnist.toml")),
    ("cifar10", include_str!("../../../data/manifests/cifar10.toml")),
    ("cifar100", include_str!("../../../data/manifests/cifar100.toml")),
    ("stl10", include_str!("../../../data/manifests/stl10.toml")),
    ("tiny-imagenet", include_str!("../../../data/manifests/tiny-imagenet.toml")),
];

/// A manifest is a page; this is a book.
const LIMIT: u64 = 1 << 20;
const MAX_SIDE: u32 = 1024;

impl Manifest {
    /// The embedded manifest of a data set.
    ///
    /// # Panics
    /// If there is none of that name.
    pub(crate) fn embedded(name: &str) -> Self {
        let known = EMBEDDED.iter().find(|(known, _)| *known == name);
        let (name, text) = known.expect("a manifest for each data set that lies in files");
        Self::parse(Path::new(name), text).expect("the tests read every embedded manifest")
    }

    /// Reads a user's own manifest.
    ///
    /// # Errors
    /// If the file is not there, is no manifest, or names what it may not.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        use std::io::Read;

        let file = crate::file::open(path, "a manifest (TOML)")?;
        let mut text = String::new();
        let read = file.take(LIMIT + 1).read_to_string(&mut text);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => DataError::kind(path, "no text", "TOML"),
            _ => crate::file::unreadable(path, &error),
        })?;
        if text.len() as u64 > LIMIT {
            return Err(DataError::content(path, "more bytes", format!("at most {LIMIT}")));
        }
        Self::parse(path, &text)
    }

    /// `path` only names the text in errors.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, DataError> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count();
            let what = error.message().lines().collect::<Vec<_>>().join(" ");
            let what: String = what.chars().filter(|c| !c.is_control()).take(200).collect();
            DataError::content(path, format!("in line {line}: {what}"), "a manifest")
        })?;
        manifest.check().map_err(|(found, expected)| DataError::content(path, found, expected))?;
        Ok(manifest)
    }

    /// What was found and what was expected instead.
    fn check(&self) -> Result<(), (String, &'static str)> {
        let require = |holds: bool, found: &str, expected| match holds {
            true => Ok(()),
            false => Err((format!("`{}`", found.escape_default()), expected)),
        };
        let is_word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        require(is_word(&self.name), &self.name, "a name of letters, digits and `-`")?;
        let side = self.side.to_string();
        require((1..=MAX_SIDE).contains(&self.side), &side, "a side of 1 to 1024")?;
        if let Layout::Cifar { label_bytes, train, test, .. } = &self.layout {
            let has_files = !train.is_empty() && !test.is_empty();
            require(has_files, "", "names of training and test files")?;
            require((1..=16).contains(label_bytes), &label_bytes.to_string(), "1 to 16 labels")?;
        }
        let n_classes = self.classes.len();
        require(n_classes <= 100_000, &n_classes.to_string(), "at most 100000 classes")?;
        let names_classes = n_classes > 0 || matches!(self.layout, Layout::TinyImagenet { .. });
        require(names_classes, "", "the names of the classes")?;
        for name in self.file_names() {
            require(is_plain_relative(name), name, "a relative path without `..`")?;
        }
        for file in &self.file {
            check_digests(&file.sha256, &file.md5)?;
        }
        for download in &self.download {
            let (url, name) = (&download.url, download.file_name());
            let is_web = url.starts_with("https://") || url.starts_with("http://");
            require(is_web && is_plain_relative(name), url, "an address of a file")?;
            let is_known = download.sha256.is_some() || download.md5.is_some();
            require(is_known, url, "a digest beside the address")?;
            check_digests(&download.sha256, &download.md5)?;
        }
        for hub in &self.hub {
            let parts: Vec<&str> = hub.repository.split('/').collect();
            let is_name = |part: &&str| {
                let is_fitting = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                part.chars().all(is_fitting) && part.chars().any(|c| c.is_ascii_alphanumeric())
            };
            let is_repository = parts.len() == 2 && parts.iter().all(is_name);
            require(is_repository, &hub.repository, "a repository `owner/name`")?;
            if let Some(commit) = &hub.commit {
                require(is_hex(commit, 40), commit, "a commit of 40 hexadecimal digits")?;
            }
            if let Some(branch) = &hub.branch {
                let is_fitting = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
                let is_branch = is_plain_relative(branch) && branch.chars().all(is_fitting);
                require(is_branch, branch, "the name of a branch")?;
            }
            for file in &hub.file {
                check_digests(&file.sha256, &None)?;
            }
        }
        Ok(())
    }

    /// Every name of a file in it that becomes a path of ours.
    fn file_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.file.iter().map(|file| &file.name[..]).collect();
        names.extend(self.hub.iter().flat_map(|hub| &hub.file).map(|file| &file.path[..]));
        match &self.layout {
            Layout::Cifar { folder, train, test, pickles, .. } => {
                names.push(folder);
                names.extend(train.iter().chain(test).chain(pickles).map(String::as_str));
            }
            Layout::Idx { folder, train, test, .. } => {
                names.push(folder);
                names.extend(train.iter().chain(test).map(String::as_str));
            }
            Layout::Stl { folder } | Layout::TinyImagenet { folder } => names.push(folder),
        }
        names
    }

    /// The published facts about a file, if its name is listed.
    pub(crate) fn known_file(&self, name: &str) -> Option<&KnownFile> {
        self.file.iter().find(|file| file.name == name)
    }
}

fn check_digests(
    sha256: &Option<String>,
    md5: &Option<String>,
) -> Result<(), (String, &'static str)> {
    let lengths = [(sha256, 64), (md5, 32)];
    let wrong = lengths
        .into_iter()
        .find_map(|(digest, length)| digest.as_ref().filter(|digest| !is_hex(digest, length)));
    match wrong {
        None => Ok(()),
        Some(wrong) => {
            Err((format!("`{}`", wrong.escape_default()), "a digest in lower-case hexadecimal"))
        }
    }
}

/// Lower-case hexadecimal of that many digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A path that cannot lead out of the folder it is joined to.
pub(crate) fn is_plain_relative(path: &str) -> bool {
    let has_oddities = path.chars().any(|c| c.is_control() || "\\:".contains(c));
    !path.is_empty()
        && !has_oddities
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_manifest_is_one_and_bears_its_own_name() {
        for (name, text) in EMBEDDED {
            let manifest = Manifest::parse(Path::new(name), text).unwrap();
            assert_eq!(manifest.name, name);
            // Whoever has no pinned files on the hub has a page with pinned ones.
            let is_pinned = |hub: &HubRepository| {
                hub.commit.is_some() && hub.file.iter().all(|file| file.sha256.is_some())
            };
            let has_page = !manifest.download.is_empty();
            assert!(has_page || manifest.hub.iter().all(is_pinned), "{name}");
        }
    }

    #[test]
    fn sizes_that_follow_from_the_layout_agree_with_those_written_down() {
        // 3,072 pixels and the labels; STL-10's images have 27,648 bytes.
        let bytes = |set: &str, file: &str| Manifest::embedded(set).known_file(file).unwrap().bytes;
        assert_eq!(bytes("cifar100", "train.bin"), 50_000 * 3_074);
        assert_eq!(bytes("cifar100", "test.bin"), 10_000 * 3_074);
        assert_eq!(bytes("stl10", "unlabeled_X.bin"), 100_000 * 27_648);
        assert_eq!(bytes("stl10", "test_X.bin"), 8_000 * 27_648);
        assert_eq!(bytes("fashion-mnist", "t10k-images-idx3-ubyte"), 16 + 10_000 * 784);
        // The two files of the hub add up to the download size on the set's card.
        let files = &Manifest::embedded("cifar10").hub[0].file;
        let sum: u64 = files.iter().map(|file| file.bytes.unwrap()).sum();
        assert_eq!(sum, 143_646_105);
    }

    #[track_caller]
    fn check_refused(from: &str, to: &str, words: &str) {
        let text = EMBEDDED.iter().find(|(name, _)| *name == "cifar10").unwrap().1;
        assert!(text.contains(from), "{from}");
        let error = Manifest::parse(Path::new("a.toml"), &text.replace(from, to)).unwrap_err();
        assert_eq!(error.code, "DATA-CONTENT");
        assert!(error.message.starts_with("`a.toml`: found "), "{error}");
        assert!(error.message.contains(words) && !error.message.contains('\n'), "{error}");
    }

    #[test]
    fn what_could_lead_out_of_a_folder_or_past_a_check_is_refused() {
        check_refused("plain_text/train-0", "../../train-0", "a relative path without `..`");
        check_refused("\"test_batch.bin\"", "\"/etc/passwd\"", "a relative path without `..`");
        check_refused("cifar-10-binary.tar.gz", "..", "an address of a file");
        check_refused("https://www.cs", "file://www.cs", "an address of a file");
        check_refused("uoft-cs/cifar10", "uoft-cs/..", "a repository");
        check_refused("0b2714987fa4", "main", "a commit of 40");
        check_refused("c32a1d4ab5d0", "C32A1D4AB5D0", "a digest in lower-case");
        check_refused("side = 32", "side = 4000000000", "a side of 1 to 1024");
        check_refused("name = \"cifar10\"", "name = \"a/b\"", "a name of letters");
        check_refused("label_bytes = 1", "label_byte = 1", "label_byte");
        check_refused("train = 50_000", "train = -1", "in line 15");
    }

    #[test]
    fn a_manifest_of_one_s_own_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        std::fs::write(&path, EMBEDDED[2].1).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), Manifest::embedded("cifar10"));
        std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        assert_eq!(Manifest::read(&path).unwrap_err().code, "DATA-KIND");
        assert_eq!(Manifest::read(folder.path()).unwrap_err().code, "DATA-KIND");
    }
}
