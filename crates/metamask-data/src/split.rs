//! Which part of a data set.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a data set, by its word in configurations and protocol lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The labelled images to learn from.
    Train,
    /// The images to judge by; pre-training never sees them.
    Test,
    /// Images that came without labels.
    Unlabelled,
    /// Both that pre-training may see, the unlabelled ones first.
    TrainAndUnlabelled,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::Unlabelled => "unlabelled",
            Self::TrainAndUnlabelled => "train-and-unlabelled",
        })
    }
}
