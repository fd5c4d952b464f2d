//! The model card: what the weights are, what they reached, and how to load them.

use std::fmt::Write as _;

use metamask_encoders::Stem;

use super::{ExportOptions, Files, Library, MaskExport};
use crate::{
    checkpoint::{NamedTensors, State},
    config::{Config, Encoder},
    evaluate::Results,
};

/// What a card is written about.
pub(super) struct Exported<'a> {
    pub(super) options: &'a ExportOptions,
    pub(super) files: &'a Files,
    pub(super) weights: &'a NamedTensors,
    pub(super) has_mask: bool,
}

/// The card of a run's encoder, in Markdown.
pub(super) fn card(
    config: &Config,
    state: State,
    results: Option<&Results>,
    exported: &Exported<'_>,
) -> String {
    let encoder = &config.encoder;
    let method = method(config, exported.has_mask);
    let mut text = format!("# {}, {method}\n\n", encoder.title());
    let _ = writeln!(
        text,
        "An image encoder, pre-trained without labels by metamask {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    let n_weights: usize =
        exported.weights.values().filter(|t| t.dtype().is_float()).map(|t| t.elem_count()).sum();
    let rows = [
        ("network", format!("{}, {n_weights} numbers", described(encoder))),
        ("data", data(config, results)),
        ("method", method),
        ("start", start(encoder)),
        ("training", training(config, state)),
        ("seed", config.run.seed.to_string()),
        ("configuration", format!("{} (hash of every setting but the seed)", config.short_hash())),
        ("mask", mask(config, exported)),
        ("input", input(config)),
        ("licence", licence(config)),
    ];
    text += "| | |\n|---|---|\n";
    for (what, value) in rows {
        let _ = writeln!(text, "| {what} | {} |", value.replace('|', "\\|"));
    }
    let _ = write!(text, "\n## How to load it\n\n```python\n{}```\n", python(config, exported));
    text += "\n## Accuracy\n\n";
    text += &match results.filter(|results| results.step == state.step) {
        Some(results) => accuracies(config, results),
        None => "Not evaluated: these weights are not those of a finished run.\n".to_owned(),
    };
    text += "\n## Settings other than the defaults\n\n";
    for difference in config.differences(&Config::default()) {
        // Where files lie on the machine is nobody's business; what they are is told above.
        let is_path = ["`data.dataset`", "`encoder.init`", "`encoder.init_sha256`"];
        if !is_path.iter().any(|key| difference.starts_with(key)) {
            let _ = writeln!(text, "- {}", difference.replace(", was ", ", by default "));
        }
    }
    text
}

fn method(config: &Config, has_mask: bool) -> String {
    let redundancy = if config.objective.redundancy_weight > 0.0 { " + L_drr" } else { "" };
    let mask = if has_mask { " + MetaMask (Li et al., NeurIPS 2022)" } else { "" };
    format!("{}{redundancy}{mask}", config.objective.method.title())
}

fn described(encoder: &Encoder) -> String {
    let stem = match encoder.stem {
        Stem::Cifar => "stem of 3x3, stride 1, no pooling",
        Stem::CifarWithPool => "stem of 3x3, stride 1, with pooling",
        Stem::ImageNet => "stem of 7x7, stride 2, with pooling",
    };
    let relu = if encoder.stem_relu { "" } else { ", no ReLU after the stem" };
    format!("{}, {stem}{relu}, no classifier", encoder.title())
}

/// The data set, without the path of a folder.
fn data(config: &Config, results: Option<&Results>) -> String {
    let name = config.data.dataset.to_string();
    match (results, name.split_once("folder:")) {
        (_, Some((before, _))) => format!("{before}a folder of images"),
        (Some(results), None) => results.split.clone(),
        (None, None) => name,
    }
}

fn start(encoder: &Encoder) -> String {
    match encoder.init.is_empty() {
        true => "random weights".to_owned(),
        false => {
            let file = file_name(std::path::Path::new(&encoder.init));
            format!("weights of `{file}`, SHA-256 {}", encoder.init_sha256)
        }
    }
}

fn training(config: &Config, state: State) -> String {
    let (epochs, batch) = (config.training.epochs, config.training.batch_size);
    format!("epoch {} of {epochs}, {} steps, batches of {batch}", state.epoch, state.step)
}

fn mask(config: &Config, exported: &Exported<'_>) -> String {
    let at_test = match config.mask.at_test_time {
        true => "the run's own number is with it",
        false => "the run's own number is without it",
    };
    match (exported.has_mask, exported.options.mask) {
        (false, _) => "none".to_owned(),
        (true, MaskExport::Folded) => {
            format!("folded: `fc` is diag(m), its output is m * features; {at_test}")
        }
        (true, MaskExport::Apart) => format!(
            "apart: tensor `mask` of `{}`, to multiply the features with; {at_test}",
            file_name(&exported.files.mask)
        ),
    }
}

fn input(config: &Config) -> String {
    let size = config.augmentation.size;
    let ([r, g, b], [dr, dg, db]) =
        (metamask_augment::IMAGENET_MEAN, metamask_augment::IMAGENET_STD);
    format!(
        "RGB in 0 to 1, shorter side resized to {size}, centre {size} x {size}, less \
         ({r}, {g}, {b}), over ({dr}, {dg}, {db}); NCHW"
    )
}

fn licence(config: &Config) -> String {
    let data = match config.data.dataset.is_embedded() {
        true => "its embedded data (Fashion-MNIST, or generated) are under MIT",
        false => "whether the data's licence restricts weights is for you to look up",
    };
    format!("metamask (MIT or Apache-2.0) claims nothing on weights; {data}")
}

/// Python that ends with `model` holding the weights, loaded under strict keys.
fn python(config: &Config, exported: &Exported<'_>) -> String {
    let Exported { options, files, has_mask, .. } = exported;
    let Encoder { depth, stem, width, stem_relu, .. } = config.encoder;
    let dim = if depth == 50 { 32 * width } else { 8 * width };
    let folded = *has_mask && options.mask == MaskExport::Folded;
    let is_timm = options.library == Library::Timm;
    let mut code = String::new();
    let library = if is_timm { "timm" } else { "torchvision" };
    let _ = writeln!(code, "import {library}, torch\nfrom safetensors.torch import load_file\n");
    if is_timm {
        let classes = if folded { dim } else { 0 };
        let _ =
            writeln!(code, "model = timm.create_model(\"resnet{depth}\", num_classes={classes})");
    } else if width == 64 {
        let classes = if folded { format!("num_classes={dim}") } else { String::new() };
        let _ = writeln!(code, "model = torchvision.models.resnet{depth}({classes})");
    } else {
        code += &narrow_torchvision(depth, width, dim);
    }
    if !is_timm && !folded {
        code += "model.fc = torch.nn.Identity()\n";
    }
    match stem {
        Stem::ImageNet if width == 64 => (),
        Stem::ImageNet => {
            let _ = writeln!(
                code,
                "model.conv1 = torch.nn.Conv2d(3, {width}, 7, stride=2, padding=3, bias=False)"
            );
        }
        Stem::Cifar | Stem::CifarWithPool => {
            let _ = writeln!(
                code,
                "model.conv1 = torch.nn.Conv2d(3, {width}, 3, padding=1, bias=False)"
            );
        }
    }
    if stem == Stem::Cifar {
        code += "model.maxpool = torch.nn.Identity()\n";
    }
    if !stem_relu {
        let name = if is_timm { "act1" } else { "relu" };
        let _ = writeln!(code, "model.{name} = torch.nn.Identity()");
    }
    let weights = file_name(&files.weights);
    let _ = writeln!(code, "model.load_state_dict(load_file(\"{weights}\"))  # strict");
    code += "model.eval()\n";
    if *has_mask && !folded {
        let file = file_name(&files.mask);
        let _ = writeln!(
            code,
            "mask = load_file(\"{file}\")[\"mask\"]  # model(images) * mask: the masked features"
        );
    }
    code
}

/// torchvision's class has 64 written into it.
fn narrow_torchvision(depth: usize, width: usize, dim: usize) -> String {
    let (block, layers) = match depth {
        50 => ("Bottleneck", "[3, 4, 6, 3]"),
        _ => ("BasicBlock", "[2, 2, 2, 2]"),
    };
    format!(
        "\
from torchvision.models import resnet

class ResNet(resnet.ResNet):
    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = {width}
        return super()._make_layer(block, planes * {width} // 64, *args, **kwargs)

model = ResNet(resnet.{block}, {layers})
model.bn1 = torch.nn.BatchNorm2d({width})
model.fc = torch.nn.Linear({dim}, {dim})
"
    )
}

fn accuracies(config: &Config, results: &Results) -> String {
    let cell = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
    let mut text = "| top-1 in percent | kNN | linear probe |\n|---|---|---|\n".to_owned();
    for row in &results.rows {
        let (knn, linear) = (cell(row.knn_percent), cell(row.linear_percent));
        let _ = writeln!(text, "| {} | {knn} | {linear} |", row.representation);
    }
    let _ = writeln!(text, "| chance | {0:.1} | {0:.1} |\n", results.chance_percent);
    let _ = writeln!(text, "One seed. {}.", data(config, Some(results)));
    for protocol in &results.protocols {
        let _ = writeln!(text, "- {protocol}");
    }
    text
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
