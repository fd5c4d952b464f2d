//! A trained encoder for PyTorch: weights under torchvision's and timm's names,
//! the mask with them, and a model card.
//!
//! Both libraries give a ResNet's tensors the same names and layouts (OIHW), so
//! their files are the same; only the card, which says how to load them, differs.

mod card;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::Architecture;

use crate::{
    checkpoint::{NamedTensors, State, encode},
    config::Config,
    durable,
    evaluate::Results,
    failure::{Code, Failure},
    learner::Learner,
    named::encoder_to_named,
};

/// Whose model the file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// `torchvision.models.resnet18`, `resnet50`
    Torchvision,
    /// `timm.create_model("resnet18")`, `"resnet50"`
    Timm,
}

/// Where the mask goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskExport {
    /// Into a file of its own, `NAME.mask.safetensors` with the tensor `mask` `[D]`.
    Apart,
    /// Into the layer that follows the features, as a diagonal linear layer `fc`.
    Folded,
}

/// What is exported, and where to.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Whose names it takes.
    pub library: Library,
    /// Where the mask goes.
    pub mask: MaskExport,
    /// The file of the weights, ending in `.safetensors`; the others lie beside it.
    pub out: PathBuf,
}

/// Writes a learner's encoder, its mask and a model card; returns the files written.
///
/// ```text
/// NAME.safetensors        weights and running statistics; with a folded mask also `fc`
/// NAME.mask.safetensors   `mask`, if there is one and it is not folded
/// NAME.md                 the model card
/// ```
///
/// # Errors
/// If the library has no such network, there is no mask to fold, or one of the
/// files is there already: then none is written.
pub fn export(
    config: &Config,
    (learner, state): (&Learner, State),
    results: Option<&Results>,
    options: &ExportOptions,
) -> anyhow::Result<Vec<PathBuf>> {
    let ExportOptions { library, mask, out } = options;
    check_network(config, *library)?;
    let files = Files::beside(out)?;
    let values = learner.feature_mask()?;
    let mut weights = pytorch_state(learner, state)?;
    match (mask, &values) {
        (MaskExport::Apart, _) => (),
        (MaskExport::Folded, Some(m)) => weights.extend(fold(m)?),
        (MaskExport::Folded, None) => {
            let message = "`--mask folded`: the run has no mask over its features";
            return Err(Failure::new(Code::Usage, message).help("take `--mask apart`").into());
        }
    }
    let card = card::card(
        config,
        state,
        results,
        &card::Exported { options, files: &files, weights: &weights, has_mask: values.is_some() },
    );

    let metadata = serde_json::to_string(&state)?;
    let mut contents = vec![(files.weights, encode(&weights, &metadata)?)];
    if let (MaskExport::Apart, Some(m)) = (mask, values) {
        let mask = NamedTensors::from([("mask".to_owned(), m)]);
        contents.push((files.mask, encode(&mask, &metadata)?));
    }
    contents.push((files.card, card.into_bytes()));
    if let Some((taken, _)) = contents.iter().find(|(path, _)| path.exists()) {
        return Err(durable::in_the_way(taken).into());
    }
    for (path, bytes) in &contents {
        durable::write_new(path, bytes)?;
    }
    Ok(contents.into_iter().map(|(path, _)| path).collect())
}

/// The names of the files of an export.
struct Files {
    weights: PathBuf,
    mask: PathBuf,
    card: PathBuf,
}

impl Files {
    fn beside(out: &Path) -> std::result::Result<Self, Failure> {
        if out.extension().is_none_or(|kind| kind != "safetensors") || out.file_stem().is_none() {
            let message = "expected a name that ends in `.safetensors`";
            return Err(Failure::at(Code::Usage, out, message));
        }
        Ok(Self {
            weights: out.to_owned(),
            mask: out.with_extension("mask.safetensors"),
            card: out.with_extension("md"),
        })
    }
}

/// Refuses what the library cannot build.
fn check_network(config: &Config, library: Library) -> std::result::Result<(), Failure> {
    let encoder = &config.encoder;
    let (message, help) = match (encoder.architecture, library) {
        (Architecture::Conv | Architecture::Fc, _) => (
            format!("torchvision and timm have no network like `{}`", encoder.title()),
            "the checkpoint's model.safetensors holds its weights under PyTorch's names, \
             `encoder.features.0.weight` …",
        ),
        (Architecture::ResNet, Library::Timm) if encoder.width != 64 => (
            format!("timm's ResNets have the width 64, this one has {}", encoder.width),
            "take `--to torchvision`, whose card shows a class of that width",
        ),
        (Architecture::ResNet, _) => return Ok(()),
    };
    Err(Failure::new(Code::Usage, message).help(help))
}

/// What `state_dict()` of a PyTorch model without its classifier holds.
fn pytorch_state(learner: &Learner, state: State) -> Result<NamedTensors> {
    let mut named = encoder_to_named(&*learner.encoder)?;
    // Each step normalises two views by their own statistics and moves the running ones.
    let n_batches = Tensor::new(2 * state.step as i64, &Device::Cpu)?;
    let norms: Vec<String> = named
        .keys()
        .filter_map(|name| name.strip_suffix(".running_mean").map(str::to_owned))
        .collect();
    for norm in norms {
        named.insert(format!("{norm}.num_batches_tracked"), n_batches.copy()?);
    }
    Ok(named)
}

/// The mask as the linear layer that follows the features, which both libraries
/// call `fc`:
///
/// ```text
/// fc(h) = diag(m) h + 0 = m ⊙ h        fc.weight [D, D], fc.bias [D]
/// ```
/// It is exact: all but one term of each sum are zeros. The layers before cannot
/// take the mask: it scales the average of relu(F(x) + x), and of that sum only
/// F(x) has weights in the last block; x is what the block before gives, which
/// F reads too.
fn fold(m: &Tensor) -> Result<[(String, Tensor); 2]> {
    let dim = m.dim(0)?;
    let diagonal = Tensor::eye(dim, DType::F32, &Device::Cpu)?.broadcast_mul(m)?;
    let bias = Tensor::zeros(dim, DType::F32, &Device::Cpu)?;
    Ok([("fc.weight".to_owned(), diagonal), ("fc.bias".to_owned(), bias)])
}

#[cfg(test)]
mod tests {
    use metamask_encoders::Stem;

    use super::*;
    use crate::config::MaskMode;

    fn config(edit: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        config.encoder.width = 4;
        edit(&mut config);
        config
    }

    fn exported(
        config: &Config,
        options: &ExportOptions,
    ) -> anyhow::Result<std::collections::BTreeMap<String, Tensor>> {
        let learner = Learner::new(config, DType::F32)?;
        learner.mask.logits.set(&Tensor::arange(0f32, 32.0, &Device::Cpu)?)?;
        export(config, (&learner, State { step: 5, epoch: 1, unfinished: None }), None, options)?;
        let tensors = candle_core::safetensors::load(&options.out, &Device::Cpu)?;
        Ok(tensors.into_iter().collect())
    }

    fn options(folder: &Path, library: Library, mask: MaskExport) -> ExportOptions {
        ExportOptions { library, mask, out: folder.join("encoder.safetensors") }
    }

    #[test]
    fn a_folded_mask_multiplies_the_features_by_itself() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let options = options(folder.path(), Library::Torchvision, MaskExport::Folded);
        let tensors = exported(&config(|_| ()), &options)?;
        let weight = tensors["fc.weight"].to_vec2::<f32>()?;
        for (i, row) in weight.iter().enumerate() {
            for (j, &x) in row.iter().enumerate() {
                // sigmoid(i), the logits being 0, 1, 2, …
                let expected = if i == j { 1.0 / (1.0 + (-(i as f64)).exp()) } else { 0.0 };
                assert!((f64::from(x) - expected).abs() < 1e-6, "[{i}, {j}] {x}");
            }
        }
        assert_eq!(tensors["fc.bias"].to_vec1::<f32>()?, [0.0; 32]);
        assert_eq!(tensors["bn1.num_batches_tracked"].to_scalar::<i64>()?, 10);
        assert!(!folder.path().join("encoder.mask.safetensors").exists());
        Ok(())
    }

    #[test]
    fn nothing_is_written_where_one_of_the_files_is() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let options = options(folder.path(), Library::Torchvision, MaskExport::Apart);
        let card = folder.path().join("encoder.md");
        std::fs::write(&card, "mine")?;
        let error = exported(&config(|_| ()), &options).expect_err("the card is there");
        assert_eq!(error.downcast::<Failure>()?.code, Code::OutDir);
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        assert_eq!(std::fs::read_to_string(&card)?, "mine");

        std::fs::remove_file(&card)?;
        exported(&config(|_| ()), &options)?;
        let mask = candle_core::safetensors::load(
            folder.path().join("encoder.mask.safetensors"),
            &Device::Cpu,
        )?;
        assert_eq!(mask["mask"].dims(), [32]);
        assert!(std::fs::read_to_string(&card)?.contains("load_state_dict"));
        Ok(())
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let check = |config: &Config, library, mask, out: &str, expected: &str| {
            let options = ExportOptions { out: folder.path().join(out), library, mask };
            let error = exported(config, &options).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        use {Library::*, MaskExport::*};
        let name = "a.safetensors";
        check(&config(|_| ()), Timm, Apart, name, "have the width 64, this one has 4");
        check(&config(|_| ()), Torchvision, Apart, "a.pt", "ends in `.safetensors`");
        let off = config(|c| c.mask.mode = MaskMode::Off);
        check(&off, Torchvision, Folded, name, "has no mask over its features");
        let conv = config(|c| c.encoder.architecture = Architecture::Conv);
        check(&conv, Torchvision, Apart, name, "no network like `conv of width 4`");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn the_tensors_are_those_of_torchvision_and_timm() -> anyhow::Result<()> {
        // Names, types and shapes as both libraries have them (xtask/golden/interop.py).
        let table = include_str!("../../tests/fixtures/interop_state_dicts.txt");
        for (depth, stem) in [(18, Stem::ImageNet), (18, Stem::Cifar), (50, Stem::ImageNet)] {
            let config =
                config(|c| (c.encoder.width, c.encoder.depth, c.encoder.stem) = (64, depth, stem));
            let learner = Learner::new(&config, DType::F32)?;
            let mut found = Vec::new();
            for (name, tensor) in pytorch_state(&learner, State::default())? {
                let mut shape: Vec<String> = tensor.dims().iter().map(usize::to_string).collect();
                if shape.is_empty() {
                    shape.push("scalar".to_owned());
                }
                let dtype = tensor.dtype().as_str();
                found.push(format!("{name} {dtype} {}", shape.join("x")));
            }
            let stem = match stem {
                Stem::ImageNet => "imagenet",
                _ => "cifar",
            };
            let header = format!("resnet{depth} {stem}");
            let expected: Vec<&str> = table
                .lines()
                .skip_while(|line| **line != header)
                .skip(1)
                .take_while(|line| !line.is_empty())
                .collect();
            assert_eq!(found, expected, "{header}");
            assert!(found.len() > 100);
        }
        Ok(())
    }
}
