//! The whole of Fashion-MNIST, where Debian's package has put it.

use std::io::Write;
use std::path::Path;

use metamask_data::{DatasetSpec, LoadOptions, load};

const PACKAGE: &str = "dataset-fashion-mnist";
const FOLDER: &str = "/usr/share/datasets/fashion-mnist";

#[test]
fn the_packaged_files_are_the_published_ones_and_hold_the_embedded_garments() {
    if !Path::new(FOLDER).exists() {
        assert!(std::env::var_os("METAMASK_FULL").is_none(), "{PACKAGE} is not installed");
        // Past libtest, which captures `eprintln!`; `cargo xtask test` counts these.
        let line = format!("skipped: the packaged files: no {PACKAGE}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    // `load` compares the files' SHA-256 with the published ones.
    let whole = load(&DatasetSpec::FashionMnist, &LoadOptions::default()).unwrap();
    let embedded = load(&DatasetSpec::GarmentsPlain, &LoadOptions::default()).unwrap();
    for (whole, embedded, n_of_class) in
        [(&whole.train, &embedded.train, 6_000), (&whole.test, &embedded.test, 1_000)]
    {
        for class in 0..10 {
            let of_class = (0..whole.len()).filter(|&i| whole.labels[i] == class);
            assert_eq!(of_class.clone().count(), n_of_class);
            let cut = (0..embedded.len()).filter(|&i| embedded.labels[i] == class);
            for (theirs, ours) in of_class.zip(cut) {
                assert!(whole.images.image(theirs) == embedded.images.image(ours), "image {ours}");
            }
        }
    }
}
