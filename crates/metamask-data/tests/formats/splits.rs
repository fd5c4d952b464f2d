//! Splits cannot be confused, and what was decoded once is not decoded again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use metamask_data::{Dataset, Event, LoadOptions, Places, Reporter, Split, load};
use metamask_random::{Key, Purpose};

use crate::write;
use crate::{at, from};

fn images_of(set: &metamask_data::Images) -> BTreeSet<Vec<u8>> {
    (0..set.len()).map(|i| set.image(i).to_vec()).collect()
}

/// What must hold of any data set: pre-training sees every image that it may
/// and no test image, and the probe's two sets have no image in common.
#[track_caller]
fn check_splits(set: &Dataset) {
    let test = images_of(&set.test.images);
    for split in [Split::Train, Split::Unlabelled, Split::TrainAndUnlabelled] {
        if let Ok(seen) = set.pretraining(split) {
            assert!(images_of(seen.images()).is_disjoint(&test), "{split}");
        }
    }
    assert!(set.pretraining(Split::Test).is_err());
    assert_eq!(set.n_test_in_train(), 0);
    let n_unlabelled = set.unlabelled.as_ref().map_or(0, |unlabelled| unlabelled.len());
    let all = set.pretraining(set.pretraining_split()).unwrap();
    assert_eq!(all.len(), set.train.len() + n_unlabelled);
}

#[test]
fn no_split_of_any_set_shows_a_test_image_to_pre_training() {
    let dir = tempfile::tempdir().unwrap();
    for sample in 0..24 {
        let stream = &mut Key::new(1, Purpose::Test).sample(sample).stream();
        let mut n = |limit| 2 + stream.below(limit) as usize;
        let place = dir.path().join(sample.to_string());
        let spec = match sample % 3 {
            0 => {
                write::folder(&place, &write::cifar10_files(n(4), n(9)));
                "cifar10".to_owned()
            }
            1 => {
                write::folder(&place, &write::stl_files(n(5), n(5), n(6), &[]));
                "stl10".to_owned()
            }
            _ => {
                for i in 0..20 + n(40) {
                    let bytes = write::picture(i, 32, image::ImageFormat::Png);
                    write::folder(&place, &[(format!("{}/{i}.png", i % 3), bytes)]);
                }
                format!("folder:{}", place.display())
            }
        };
        let set = from(&spec, &place).unwrap();
        check_splits(&set);
        let cut = set.train.len() / 2;
        check_splits(&set.with_validation(cut).unwrap());
    }
}

#[test]
fn the_embedded_sets_keep_their_splits_apart() {
    for spec in ["garments-plain", "garments", "shapes"] {
        let options = LoadOptions { train: Some(700), test: Some(300), ..Default::default() };
        check_splits(&load(&spec.parse().unwrap(), &options).unwrap());
    }
}

#[test]
fn scenes_can_be_set_around_any_set_and_keep_its_classes() {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::cifar10_files(3, 4));
    let set = from("scenes:cifar10", dir.path()).unwrap();
    assert_eq!((set.train.len(), set.test.labels[3]), (15, 8));
    assert_eq!(set.train.factors.as_ref().unwrap().len(), 15);
    assert_ne!(
        set.train.images.image(0),
        from("cifar10", dir.path()).unwrap().train.images.image(0)
    );
    for (name, bytes) in write::idx_files(20) {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let set = from("scenes:mnist", dir.path()).unwrap();
    assert_eq!((set.train.images.height(), set.test.labels[13]), (32, 3));
}

fn cached(data: &Path, cache: &Path, report: Reporter) -> LoadOptions {
    let places = Places {
        data_dir: Some(data.into()),
        cache_dir: Some(cache.into()),
        report,
        ..Places::default()
    };
    LoadOptions { places, ..LoadOptions::default() }
}

#[test]
fn a_second_load_maps_what_the_first_decoded_and_a_changed_source_is_decoded_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
    write::folder(&data, &write::cifar10_files(5, 5));
    let events = Arc::new(Mutex::new(Vec::new()));
    let report = Reporter::new({
        let events = Arc::clone(&events);
        move |event| events.lock().unwrap().push(event)
    });
    let options = cached(&data, &cache, report);
    let spec = "cifar10".parse().unwrap();
    let decoded = || {
        let events = std::mem::take(&mut *events.lock().unwrap());
        let images = events.iter().map(|event| if let Event::Advanced(n) = event { *n } else { 0 });
        images.sum::<u64>()
    };
    let first = load(&spec, &options).unwrap().fingerprint();
    assert_eq!(decoded(), 30);
    assert_eq!(load(&spec, &options).unwrap().fingerprint(), first);
    assert_eq!(decoded(), 0, "the second load decodes nothing");
    assert_eq!(fs::read_dir(cache.join("decoded")).unwrap().count(), 1);

    let smaller = LoadOptions { side: Some(28), ..options.clone() };
    assert_eq!(load(&spec, &smaller).unwrap().train.images.height(), 28);
    assert_eq!(decoded(), 30, "another side is another file");

    write::folder(&data, &write::cifar10_files(6, 5));
    assert_eq!(load(&spec, &options).unwrap().train.len(), 30);
    assert_eq!(decoded(), 35);
}

#[test]
fn a_damaged_cache_file_is_decoded_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
    write::folder(&data, &write::cifar10_files(2, 2));
    let options = cached(&data, &cache, Reporter::default());
    let spec = "cifar10".parse().unwrap();
    let first = load(&spec, &options).unwrap().fingerprint();
    let file = fs::read_dir(cache.join("decoded")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(load(&spec, &options).unwrap().fingerprint(), first);
    assert_eq!(fs::metadata(&file).unwrap().len() as usize, bytes.len());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::stl_files(4, 4, 20, &[1, 7, 19]));
    let prints: Vec<String> = [1, 2, 5]
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| load(&"stl10".parse().unwrap(), &at(dir.path())).unwrap().fingerprint())
        })
        .into();
    assert!(prints.iter().all(|print| *print == prints[0]));
}
