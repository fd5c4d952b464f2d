//! Exported files under the Python of their own cards, run by the real libraries.

use std::{io::Write, path::Path, process::Command};

use candle_core::{DType, Device, Result, Tensor, safetensors};
use metamask_encoders::{BatchStats, Stem};
use metamask_train::{
    Config, Learner,
    checkpoint::State,
    config::Precision,
    export::{ExportOptions, Library, MaskExport, export},
};

/// Says that the running test could not: its libraries are too large for every machine, so
/// it runs where METAMASK_PYTHON names an interpreter that has them.
fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // In one piece, and past libtest, which captures `eprintln!`.
    let line = format!("left to METAMASK_PYTHON: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Numbers between -2 and 2 without a pattern that a convolution could be blind to.
fn images(size: usize) -> Result<Tensor> {
    let n = 4 * size * size * 3;
    let values = (0..n).map(|i| 2.0 * ((i * i) as f32 * 0.37 + i as f32 * 1.7).sin()).collect();
    Tensor::from_vec(values, (4, size, size, 3), &Device::Cpu)
}

/// Exports a network whose statistics and mask are not those of the start, for both libraries
/// and with the mask in both places, with images and their masked features beside.
fn export_all(folder: &Path, name: &str, stem: Stem, size: usize) -> anyhow::Result<()> {
    let mut config = Config::default();
    (config.encoder.width, config.encoder.stem) = (64, stem);
    config.engine.precision = Precision::Exact;
    (config.contrastive_head.hidden, config.redundancy_head.hidden) = (vec![8], vec![8]);
    let learner = Learner::new(&config, DType::F32)?;
    let (images, encoder) = (images(size)?, &learner.encoder);
    let theta: Vec<Tensor> = learner.theta().encoder.iter().map(Tensor::detach).collect();
    for _ in 0..3 {
        encoder.forward(&images, &theta, BatchStats::BatchAndUpdate)?;
    }
    learner.mask.logits.set(&Tensor::arange(-256f32, 256.0, &Device::Cpu)?.affine(0.02, 0.0)?)?;
    let features = encoder.forward(&images, &theta, BatchStats::Running)?.detach();
    let masked = features.broadcast_mul(&learner.mask.values()?.detach())?;
    let tensors = [
        ("images".to_owned(), images.permute((0, 3, 1, 2))?.contiguous()?), // [N, 3, H, W]
        ("masked".to_owned(), masked),
    ];
    let tensors = tensors.into_iter().collect();
    safetensors::save(&tensors, folder.join(format!("{name}.expected")))?;

    for (library, word) in [(Library::Torchvision, "torchvision"), (Library::Timm, "timm")] {
        for (mask, place) in [(MaskExport::Apart, "apart"), (MaskExport::Folded, "folded")] {
            let out = folder.join(format!("{name}-{word}-{place}.safetensors"));
            let options = ExportOptions { library, mask, out };
            export(
                &config,
                (&learner, State { step: 3, epoch: 1, unfinished: None }),
                None,
                &options,
            )?;
        }
    }
    Ok(())
}

#[test]
fn torchvision_and_timm_give_the_features_of_an_exported_encoder() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("METAMASK_PYTHON") else {
        skip("METAMASK_PYTHON is not set to a Python with torch, torchvision and timm");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    export_all(folder.path(), "cifar", Stem::Cifar, 32)?;
    export_all(folder.path(), "imagenet", Stem::ImageNet, 64)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/load.py");
    let output = Command::new(python).arg("-B").arg(script).arg(folder.path()).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.lines().filter(|line| line.starts_with("equal")).count(), 8, "{printed}");
    std::io::stderr().write_all(printed.as_bytes())?;
    Ok(())
}
