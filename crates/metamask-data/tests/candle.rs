//! Our CIFAR-10 beside candle-datasets': `cargo test --release -p metamask-data
//! --features candle --test candle`.

#[path = "formats/write.rs"]
#[allow(dead_code)]
mod write;

use candle_core::{DType, Tensor};
use candle_datasets::vision;
use metamask_data::{Dataset, LoadOptions, Places, load};

/// candle-datasets reads ten thousand records a file, no fewer.
const N: usize = 10_000;

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        values.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    a.dims() == b.dims() && a.dtype() == b.dtype() && bits(a) == bits(b)
}

#[test]
fn our_cifar10_equals_candle_s_load_dir_bit_for_bit_and_goes_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in write::cifar10_files(N, N) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let theirs = vision::cifar::load_dir(dir.path()).unwrap();
    let places = Places { data_dir: Some(dir.path().into()), ..Places::default() };
    let options = LoadOptions { places, ..LoadOptions::default() };
    let ours = load(&"cifar10".parse().unwrap(), &options).unwrap();
    assert_eq!((ours.train.len(), ours.test.len()), (5 * N, N));

    let out = vision::Dataset::try_from(&ours).unwrap();
    assert!(same_bits(&out.train_images, &theirs.train_images));
    assert!(same_bits(&out.test_images, &theirs.test_images));
    assert!(same_bits(&out.train_labels, &theirs.train_labels));
    assert!(same_bits(&out.test_labels, &theirs.test_labels));
    assert_eq!(out.labels, theirs.labels);

    let back = Dataset::try_from(&theirs).unwrap();
    assert!(back.train.images == ours.train.images && back.train.labels == ours.train.labels);
    assert!(back.test.images == ours.test.images && back.test.labels == ours.test.labels);

    // Upright: red is 7 · row, green 5 · column.
    let first = |row: usize, column: usize| {
        let image = out.train_images.get(0).unwrap();
        let at =
            |channel: usize| image.get(channel).unwrap().get(row).unwrap().get(column).unwrap();
        [at(0), at(1)].map(|value| (value.to_scalar::<f32>().unwrap() * 255.0).round() as u8)
    };
    assert_eq!((first(3, 0), first(0, 4)), ([21, 0], [0, 20]));
}

#[test]
fn grey_images_in_rows_become_square_rgb() {
    let device = &candle_core::Device::Cpu;
    let values: Vec<f32> = (0..18).map(|value| value as f32 / 255.0).collect();
    let images = Tensor::from_vec(values, (2, 9), device).unwrap();
    let labels = Tensor::from_vec(vec![1u8, 0], 2, device).unwrap();
    let theirs = vision::Dataset {
        train_images: images.clone(),
        train_labels: labels.clone(),
        test_images: images,
        test_labels: labels,
        labels: 2,
    };
    let ours = Dataset::try_from(&theirs).unwrap();
    assert_eq!(ours.train.images.image(1)[3 * 5..][..3], [14; 3], "row 1, column 2");
    assert_eq!(ours.test.labels, [1, 0]);
}
