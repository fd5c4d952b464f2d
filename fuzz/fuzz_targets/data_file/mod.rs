//! One file of a data set, loaded as `--data-dir` loads it: the readers take paths, so the
//! bytes go into a file in memory (`/dev/shm`), beside whole ones of the corpus.

use std::fs;
use std::path::PathBuf;
use std::sync::{Once, OnceLock};

use metamask_data::{DatasetSpec, LoadOptions, Places, load};

/// Loads a data set in which the fuzzed bytes are the file `name`; `others` are the files
/// beside it, whole. `spec` may hold `{}`, the folder. `is_archive`: the file itself is
/// what `--data-dir` names.
pub(crate) fn check(bytes: &[u8], spec: &str, name: &str, others: &[(&str, &[u8])], is_archive: bool) {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = PathBuf::from(format!("/dev/shm/metamask-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder in memory");
        for (name, bytes) in others {
            fs::write(folder.join(name), bytes).expect("written");
        }
        folder
    });
    let file = folder.join(name);
    fs::write(&file, bytes).expect("written");
    let dir = if is_archive { file } else { folder.clone() };
    let spec: DatasetSpec =
        spec.replace("{}", &folder.display().to_string()).parse().expect("a known set");
    let places = Places { data_dir: Some(dir), ..Places::default() };
    if let Err(error) = load(&spec, &LoadOptions { places, ..LoadOptions::default() }) {
        let text = error.to_string();
        assert!(!text.contains('\n') && text.len() < 1000, "one line: {text}");
    }
}

/// The parquet crate panics on some damaged files, and its panics come back as errors; the
/// fuzzer's own hook would end the program before that.
#[allow(dead_code)]
pub(crate) fn let_guarded_panics_pass() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let fatal = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !metamask_data::panic_is_guarded() {
                fatal(panic);
            }
        }));
    });
}
