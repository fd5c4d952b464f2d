//! Where data sets are looked for and kept, and whether the network may be used.

use std::path::PathBuf;

use crate::report::Reporter;

/// Where to look, in this order: `data_dir`, `cache_dir`, `hub_cache_dir`, the
/// network. By default nowhere but where packages of the system are.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The folder (or archive) with the data set's files that the user named.
    pub data_dir: Option<PathBuf>,
    /// Our own cache: fetched files in `sources`, decoded images in `decoded`.
    /// Without one, images are decoded at every load.
    pub cache_dir: Option<PathBuf>,
    /// The Hugging Face cache, `$HF_HOME/hub`; it is only read.
    pub hub_cache_dir: Option<PathBuf>,
    /// The network; `None` opens no socket.
    #[cfg(feature = "hub")]
    pub network: Option<crate::hub::Network>,
    /// Who is told of progress.
    pub report: Reporter,
}

impl Places {
    /// Where fetched files of a set are kept.
    pub(crate) fn sources(&self, name: &str) -> Option<PathBuf> {
        Some(self.cache_dir.as_ref()?.join("sources").join(name))
    }

    /// Where decoded images are kept.
    pub(crate) fn decoded(&self) -> Option<PathBuf> {
        Some(self.cache_dir.as_ref()?.join("decoded"))
    }
}
