//! The names of the data sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// Which data set to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DatasetSpec {
    /// The embedded garments in confounded scenes.
    #[default]
    Garments,
    /// The embedded garments, 28×28 grey, set into the middle of 32×32 RGB.
    GarmentsPlain,
    /// Ten shapes in confounded scenes, generated.
    Shapes,
    /// Fashion-MNIST's own 60,000 + 10,000 garments, from its IDX files.
    FashionMnist,
    /// All garments of Fashion-MNIST in confounded scenes.
    FashionMnistScenes,
    /// CIFAR-10's 50,000 + 10,000 photographs, from its binary files.
    Cifar10,
}

impl DatasetSpec {
    /// Every data set, in the order of `metamask data list`.
    pub const ALL: [Self; 6] = [
        Self::Garments,
        Self::GarmentsPlain,
        Self::Shapes,
        Self::FashionMnist,
        Self::FashionMnistScenes,
        Self::Cifar10,
    ];

    /// The name on the command line and in config files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Garments => "garments",
            Self::GarmentsPlain => "garments-plain",
            Self::Shapes => "shapes",
            Self::FashionMnist => "fashion-mnist",
            Self::FashionMnistScenes => "scenes:fashion-mnist",
            Self::Cifar10 => "cifar10",
        }
    }

    /// One line for a list.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Garments => "photographs of garments in confounded scenes (embedded)",
            Self::GarmentsPlain => "photographs of garments, grey (embedded)",
            Self::Shapes => "ten shapes in confounded scenes (generated)",
            Self::FashionMnist => "the whole of Fashion-MNIST, grey (IDX files)",
            Self::FashionMnistScenes => {
                "the whole of Fashion-MNIST in confounded scenes (IDX files)"
            }
            Self::Cifar10 => "photographs of ten kinds of things (CIFAR-10's binary files)",
        }
    }

    /// Whether it comes with the program; the others need files.
    pub const fn is_embedded(self) -> bool {
        match self {
            Self::Garments | Self::GarmentsPlain | Self::Shapes => true,
            Self::FashionMnist | Self::FashionMnistScenes | Self::Cifar10 => false,
        }
    }
}

impl fmt::Display for DatasetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DatasetSpec {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let known = Self::ALL.iter().find(|spec| spec.name() == name);
        known.copied().ok_or_else(|| unknown(name))
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
        spec.name().to_owned()
    }
}

fn unknown(name: &str) -> DataError {
    // Damerau: a swap of two letters is one slip, not two.
    let nearest = DatasetSpec::ALL
        .iter()
        .min_by_key(|spec| strsim::damerau_levenshtein(spec.name(), name))
        .expect("there are data sets");
    let names: Vec<_> = DatasetSpec::ALL.iter().map(|spec| format!("`{spec}`")).collect();
    DataError::request(format!(
        "data set: unknown name, expected one of {}, got `{name}` (nearest: `{nearest}`)",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_are_written() {
        for spec in DatasetSpec::ALL {
            assert_eq!(spec.to_string().parse::<DatasetSpec>().unwrap(), spec);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(json, format!("\"{spec}\""));
            assert_eq!(serde_json::from_str::<DatasetSpec>(&json).unwrap(), spec);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = "fashion_minst".parse::<DatasetSpec>().unwrap_err();
        assert!(
            error.message.ends_with("got `fashion_minst` (nearest: `fashion-mnist`)"),
            "{error}"
        );
        assert!("".parse::<DatasetSpec>().is_err());
    }
}
