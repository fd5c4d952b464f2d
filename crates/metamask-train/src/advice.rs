//! What is worth a word about a configuration before hours are spent on it.
//!
//! A configuration that is read can be carried out; whether it is what its author meant is
//! another matter. Each rule says what it found, and what to do.

use metamask_encoders::Stem;
use serde::Serialize;

use crate::config::{Config, MaskMode, Method, Precision};
use metamask_encoders::Architecture;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Probably not what was meant.
    Warning,
    /// The run cannot be carried out.
    Error,
}

impl Level {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub topic: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    /// Something as it should be.
    pub fn ok(topic: &'static str, message: impl Into<String>) -> Self {
        Self { topic, level: Level::Ok, message: message.into(), help: None }
    }

    /// Something worth a word.
    pub fn new(
        topic: &'static str,
        level: Level,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { topic, level, message: message.into(), help: Some(help.into()) }
    }
}

/// What the settings say about themselves; `images` are those that are trained on and
/// `side` is theirs, in pixels.
pub fn of(config: &Config, images: usize, side: usize) -> Vec<Finding> {
    vec![
        stem(config),
        crops(config, side),
        steps(config, images),
        negatives(config),
        temperature(config),
        learning_rate(config),
        mask(config),
        precision(config),
    ]
}

/// The stem keeps the last stage at 2 pixels or more, and the first at 56 or fewer.
fn stem(config: &Config) -> Finding {
    const TOPIC: &str = "stem";
    let (size, stem) = (config.augmentation.size, config.encoder.stem);
    if config.encoder.architecture != Architecture::ResNet {
        return Finding::ok(TOPIC, format!("none in `{}`", config.encoder.title()));
    }
    let word = |stem: Stem| match stem {
        Stem::Cifar => "cifar",
        Stem::CifarWithPool => "cifar-with-pool",
        Stem::ImageNet => "imagenet",
    };
    let by = |stem: Stem| match stem {
        Stem::Cifar => 1,
        Stem::CifarWithPool => 2,
        Stem::ImageNet => 4,
    };
    let fitting = match size {
        ..=48 => Stem::Cifar,
        49..=112 => Stem::CifarWithPool,
        _ => Stem::ImageNet,
    };
    let (first, last) = (size.div_ceil(by(stem)), size.div_ceil(8 * by(stem)));
    let found = format!(
        "`{}` on {size}x{size} pixels: the first stage sees {first}x{first}, the last {last}x{last}",
        word(stem)
    );
    let help = || format!("--set encoder.stem={} suits this size", word(fitting));
    match (last < 2 && by(stem) > 1, first > 112) {
        (true, _) => {
            Finding::new(TOPIC, Level::Warning, found + "; little is left to look at", help())
        }
        (_, true) => Finding::new(TOPIC, Level::Warning, found + "; a step is very slow", help()),
        _ if by(stem) != by(fitting) => Finding::new(TOPIC, Level::Note, found, help()),
        _ => Finding::ok(TOPIC, found),
    }
}

fn crops(config: &Config, side: usize) -> Finding {
    const TOPIC: &str = "crops";
    let size = config.augmentation.size;
    let found = format!("{size}x{size} pixels from images of {side}x{side}");
    if size > side {
        let help = format!("--set augmentation.size={side} costs less and sees the same");
        return Finding::new(TOPIC, Level::Warning, found + ": they are enlarged", help);
    }
    Finding::ok(TOPIC, found)
}

fn steps(config: &Config, images: usize) -> Finding {
    const TOPIC: &str = "batch";
    let batch = config.training.batch_size;
    let (steps, left_out) = (images / batch.max(1), images % batch.max(1));
    let found = format!(
        "{batch} of {images} images: {steps} steps an epoch, {left_out} images left out of each"
    );
    if steps == 0 {
        let help = format!("--set training.batch_size={}", images.max(2));
        return Finding::new(TOPIC, Level::Error, found, help);
    }
    match steps < 10 || 4 * left_out > images {
        true => Finding::new(TOPIC, Level::Warning, found, "take a smaller batch"),
        false => Finding::ok(TOPIC, found),
    }
}

/// What the loss compares an image with.
fn negatives(config: &Config) -> Finding {
    const TOPIC: &str = "negatives";
    let batch = config.training.batch_size;
    match config.objective.method {
        Method::Nnclr => {
            let size = config.queue.size;
            let found =
                format!("a queue of {size} embeddings, {:.1} batches", size as f64 / batch as f64);
            match size < 4 * batch {
                true => Finding::new(
                    TOPIC,
                    Level::Warning,
                    found + ": neighbours are mostly of the last step",
                    format!("--set queue.size={}", 32 * batch),
                ),
                false => Finding::ok(TOPIC, found),
            }
        }
        Method::SimClr | Method::Dcl | Method::Hcl => {
            let found = format!("{} for each view", 2 * (batch - 1));
            match batch < 64 {
                true => Finding::new(
                    TOPIC,
                    Level::Warning,
                    found + ": contrastive losses learn little from so few",
                    "take a batch of 64 or more, or --set objective.method=barlow-twins or byol",
                ),
                false => Finding::ok(TOPIC, found),
            }
        }
        Method::BarlowTwins | Method::Byol => {
            Finding::ok(TOPIC, format!("{} needs none", config.objective.method.title()))
        }
    }
}

fn temperature(config: &Config) -> Finding {
    const TOPIC: &str = "temperature";
    let (method, temperature) = (config.objective.method, config.objective.temperature);
    if matches!(method, Method::BarlowTwins | Method::Byol) {
        return Finding::ok(TOPIC, format!("{} has none", method.title()));
    }
    let found = format!("{temperature}");
    // Published values lie between 0.07 (MoCo) and 0.5 (SimCLR on small images).
    match (0.05..=1.0).contains(&temperature) {
        true => Finding::ok(TOPIC, found),
        false => Finding::new(
            TOPIC,
            Level::Warning,
            found + ": published ones lie within 0.07 to 0.5",
            "--set objective.temperature=0.2",
        ),
    }
}

fn learning_rate(config: &Config) -> Finding {
    use metamask_optim::OptimizerKind::{Adam, AdamW, Lars, Sgd};
    const TOPIC: &str = "rate";
    let at_start = crate::Moment::of(config, 0, 1).learning_rate;
    let peak = (0..config.training.epochs as u64)
        .map(|epoch| crate::Moment::of(config, epoch, 1).learning_rate)
        .fold(at_start, f64::max);
    let batch = config.training.batch_size as f64;
    let (high, a_256) = match config.optimizer.rule {
        Sgd => (1.0, peak * 256.0 / batch),
        Lars => (20.0, peak * 256.0 / batch),
        Adam | AdamW => (0.02, peak),
    };
    let found = format!("{peak} at its highest, batch {batch}");
    match a_256 {
        0.0 => Finding::new(TOPIC, Level::Warning, "0: nothing is learned", "set a rate"),
        rate if rate > high => Finding::new(
            TOPIC,
            Level::Warning,
            found + ": this rule seldom bears so much",
            format!("stay below {:.2}", high * peak / a_256),
        ),
        _ => Finding::ok(TOPIC, found),
    }
}

fn mask(config: &Config) -> Finding {
    const TOPIC: &str = "mask";
    let moves = config.training.epochs.saturating_sub(config.mask.experimental.start_epoch);
    match (config.mask.mode, config.mask.learning_rate, moves) {
        (MaskMode::Off, ..) => Finding::ok(TOPIC, "off: the plain method"),
        (_, 0.0, _) => Finding::new(
            TOPIC,
            Level::Warning,
            "its rate is 0: it stays what it is, and every meta step is in vain",
            "--set mask.learning_rate, or --set mask.mode=off",
        ),
        (.., 0) => Finding::new(
            TOPIC,
            Level::Warning,
            "starts after the last epoch: it never moves",
            "lower `mask.experimental.start_epoch`",
        ),
        (_, rate, _) => Finding::ok(TOPIC, format!("on, rate {rate}")),
    }
}

fn precision(config: &Config) -> Finding {
    const TOPIC: &str = "precision";
    Finding::ok(
        TOPIC,
        match config.engine.precision {
            Precision::Fast => {
                "fast: f32, convolutions by Winograd's algorithm where it saves time"
            }
            Precision::Bf16 => "bf16: as fast, with products of bfloat16, an error of a hundredth",
            Precision::Exact => "exact: f32, every product of a convolution; slower",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The levels that are not `ok`, by topic.
    fn told(overrides: &[&str], images: usize, side: usize) -> Vec<(&'static str, Level)> {
        let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
        let config = Config::read("", "test", &overrides).expect("valid");
        let findings = of(&config, images, side);
        for finding in &findings {
            assert_eq!(finding.help.is_some(), finding.level != Level::Ok, "{finding:?}");
        }
        let level = |finding: Finding| (finding.topic, finding.level);
        findings.into_iter().filter(|f| f.level != Level::Ok).map(level).collect()
    }

    #[test]
    fn a_sound_configuration_has_nothing_to_tell() {
        assert_eq!(told(&["augmentation.size=32"], 50_000, 32), []);
        let large = ["augmentation.size=224", "encoder.stem=imagenet"];
        assert_eq!(told(&large, 100_000, 256), []);
    }

    #[test]
    fn what_was_hardly_meant_is_told() {
        let warned = |topic| vec![(topic, Level::Warning)];
        let size = "augmentation.size=32";
        assert_eq!(
            told(&["augmentation.size=16", "encoder.stem=imagenet"], 50_000, 32),
            warned("stem")
        );
        assert_eq!(
            told(&["augmentation.size=224", "encoder.stem=cifar"], 50_000, 224),
            warned("stem")
        );
        assert_eq!(told(&["augmentation.size=48"], 50_000, 32), warned("crops"));
        assert_eq!(told(&[size], 1000, 32), warned("batch"));
        assert_eq!(told(&[size], 100, 32), [("batch", Level::Error)]);
        assert_eq!(told(&[size, "training.batch_size=32"], 50_000, 32), warned("negatives"));
        let nnclr = [size, "objective.method=nnclr", "queue.size=128"];
        assert_eq!(told(&nnclr, 50_000, 32), warned("negatives"));
        assert_eq!(told(&[size, "objective.temperature=0.01"], 50_000, 32), warned("temperature"));
        assert_eq!(told(&[size, "optimizer.learning_rate=3"], 50_000, 32), warned("rate"));
        let adam = [size, "optimizer.rule=adam", "optimizer.learning_rate=0.06"];
        assert_eq!(told(&adam, 50_000, 32), warned("rate"));
        assert_eq!(told(&[size, "mask.learning_rate=0"], 50_000, 32), warned("mask"));
        assert_eq!(told(&[size, "mask.experimental.start_epoch=99"], 50_000, 32), warned("mask"));
    }
}
