//! The names of the data sets.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::manifest::Manifest;

/// Which data set to load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DatasetSpec {
    /// The embedded garments in confounded scenes.
    #[default]
    Garments,
    /// The embedded garments, 28×28 grey, set into the middle of 32×32 RGB.
    GarmentsPlain,
    /// Ten shapes in confounded scenes, generated.
    Shapes,
    /// MNIST's 60,000 + 10,000 handwritten digits.
    Mnist,
    /// Fashion-MNIST's own 60,000 + 10,000 garments.
    FashionMnist,
    /// CIFAR-10's 50,000 + 10,000 photographs of 32×32.
    Cifar10,
    /// CIFAR-100's 50,000 + 10,000 photographs of 32×32, fine labels.
    Cifar100,
    /// STL-10's 5,000 + 8,000 labelled and 100,000 unlabelled photographs of 96×96.
    Stl10,
    /// Tiny-ImageNet-200 (IN-200): 100,000 + 10,000 photographs of 64×64.
    TinyImagenet,
    /// `folder:PATH`: a folder of images.
    Folder(PathBuf),
    /// `manifest:FILE.toml`: a set that a manifest of the user's own describes.
    Manifest(PathBuf),
    /// `scenes:NAME`: the images of another data set as objects in confounded scenes.
    Scenes(Box<DatasetSpec>),
}

/// Each data set without an argument in its name: the name, and a line for a list.
const NAMED: [(DatasetSpec, &str, &str); 9] = [
    (DatasetSpec::Garments, "garments", "photographs of garments in confounded scenes (embedded)"),
    (DatasetSpec::GarmentsPlain, "garments-plain", "photographs of garments, grey (embedded)"),
    (DatasetSpec::Shapes, "shapes", "ten shapes in confounded scenes (generated)"),
    (DatasetSpec::Mnist, "mnist", "handwritten digits, 28 px, grey"),
    (DatasetSpec::FashionMnist, "fashion-mnist", "photographs of garments, 28 px, grey"),
    (DatasetSpec::Cifar10, "cifar10", "photographs of ten kinds of things, 32 px"),
    (DatasetSpec::Cifar100, "cifar100", "photographs of a hundred kinds of things, 32 px"),
    (DatasetSpec::Stl10, "stl10", "photographs of ten kinds of things, 96 px, most unlabelled"),
    (
        DatasetSpec::TinyImagenet,
        "tiny-imagenet",
        "photographs of 200 kinds of things, 64 px (Tiny-ImageNet-200)",
    ),
];

const FOLDER: &str = "folder:";
const MANIFEST: &str = "manifest:";
const SCENES: &str = "scenes:";

impl DatasetSpec {
    /// Every data set whose name stands for itself, in the order of `metamask data list`.
    pub fn named() -> impl Iterator<Item = Self> {
        NAMED.into_iter().map(|(spec, _, _)| spec)
    }

    /// One line for a list.
    pub fn description(&self) -> String {
        match self {
            Self::Folder(path) => format!("the images in `{}`", path.display()),
            Self::Manifest(path) => format!("the set that `{}` describes", path.display()),
            Self::Scenes(inner) => format!("{inner} in confounded scenes"),
            named => of(named).1.to_owned(),
        }
    }

    /// The manifest of a set that lies in files; none for generated and embedded
    /// images and for folders.
    ///
    /// # Errors
    /// If a manifest of the user's own cannot be read.
    pub fn manifest(&self) -> Result<Option<Manifest>, DataError> {
        Ok(match self {
            Self::Garments | Self::GarmentsPlain | Self::Shapes | Self::Folder(_) => None,
            Self::Scenes(inner) => return inner.manifest(),
            Self::Manifest(path) => Some(Manifest::read(path)?),
            Self::Mnist
            | Self::FashionMnist
            | Self::Cifar10
            | Self::Cifar100
            | Self::Stl10
            | Self::TinyImagenet => Some(Manifest::embedded(of(self).0)),
        })
    }

    /// Whether it comes with the program; the others need files.
    pub fn is_embedded(&self) -> bool {
        matches!(self, Self::Garments | Self::GarmentsPlain | Self::Shapes)
    }
}

/// The name and the line of a spec without an argument.
fn of(spec: &DatasetSpec) -> (&'static str, &'static str) {
    let known = NAMED.iter().find(|(known, _, _)| known == spec);
    known.map(|(_, name, line)| (*name, *line)).expect("every name is listed")
}

impl fmt::Display for DatasetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => f.pad(&format!("{FOLDER}{}", path.display())),
            Self::Manifest(path) => f.pad(&format!("{MANIFEST}{}", path.display())),
            Self::Scenes(inner) => f.pad(&format!("{SCENES}{inner}")),
            named => f.pad(of(named).0),
        }
    }
}

impl FromStr for DatasetSpec {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let with_path = [(FOLDER, Self::Folder as fn(PathBuf) -> Self), (MANIFEST, Self::Manifest)];
        for (prefix, spec) in with_path {
            match name.strip_prefix(prefix) {
                Some("") => {
                    let message = format!("data set: `{prefix}` needs a path");
                    return Err(DataError::request(message));
                }
                Some(path) => return Ok(spec(path.into())),
                None => {}
            }
        }
        if let Some(inner) = name.strip_prefix(SCENES) {
            return match inner.parse()? {
                Self::Garments | Self::Shapes | Self::Scenes(_) => Err(DataError::request(
                    format!("data set: `{inner}` is in scenes already, expected one that is not"),
                )),
                // One name for one thing.
                Self::GarmentsPlain => Ok(Self::Garments),
                inner => Ok(Self::Scenes(Box::new(inner))),
            };
        }
        let known = NAMED.into_iter().find(|(_, known, _)| *known == name);
        known.map(|(spec, _, _)| spec).ok_or_else(|| unknown(name))
    }
}

impl TryFrom<String> for DatasetSpec {
    type Error = DataError;

    fn try_from(name: String) -> Result<Self, DataError> {
        name.parse()
    }
}

impl From<DatasetSpec> for String {
    fn from(spec: DatasetSpec) -> Self {
        spec.to_string()
    }
}

fn unknown(name: &str) -> DataError {
    // Damerau: a swap of two letters is one slip, not two.
    let nearest = NAMED.iter().map(|(_, known, _)| *known);
    let nearest = nearest
        .min_by_key(|known| strsim::damerau_levenshtein(known, name))
        .expect("there are data sets");
    let names: Vec<_> = NAMED.iter().map(|(_, known, _)| format!("`{known}`")).collect();
    DataError::request(format!(
        "data set: unknown name, expected one of {}, `folder:PATH`, `manifest:FILE` or `scenes:NAME`, got `{name}` \
         (nearest: `{nearest}`)",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_are_written() {
        let with_argument =
            ["folder:my images/a", "manifest:a.toml", "scenes:cifar10", "scenes:folder:a"];
        let with_argument = with_argument.map(|name| name.parse().unwrap());
        for spec in DatasetSpec::named().chain(with_argument) {
            assert_eq!(spec.to_string().parse::<DatasetSpec>().unwrap(), spec);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(json, format!("\"{spec}\""));
            assert_eq!(serde_json::from_str::<DatasetSpec>(&json).unwrap(), spec);
            assert!(!spec.description().is_empty());
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = "fashion_minst".parse::<DatasetSpec>().unwrap_err();
        assert!(
            error.message.ends_with("got `fashion_minst` (nearest: `fashion-mnist`)"),
            "{error}"
        );
        for name in
            ["", "folder:", "manifest:", "scenes:", "scenes:shapes", "scenes:scenes:cifar10"]
        {
            assert!(name.parse::<DatasetSpec>().is_err(), "{name}");
        }
    }

    #[test]
    fn the_embedded_garments_have_one_name() {
        assert_eq!("scenes:garments-plain".parse::<DatasetSpec>().unwrap(), DatasetSpec::Garments);
    }
}
