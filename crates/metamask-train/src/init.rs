//! Starting from somebody else's weights: torchvision's or timm's ResNets, or an
//! encoder of [`mod@crate::export`], from a file or from the Hugging Face hub.
//!
//! The file is untrusted: its size and header are bounded, each name, type and
//! shape is checked, and whatever does not fit is an error unless it is allowed
//! by name. Its SHA-256 is a setting of the run, so that a run which is resumed
//! cannot begin from another file.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use metamask_data::{HubWeights, Places};
use metamask_encoders::Encoder;
use safetensors::SafeTensors;

use crate::{
    checkpoint::{NamedTensors, count_not_finite, open, sha256},
    config::{self, Config},
    durable,
    failure::{Code, Failure},
    learner::{Learner, seeded_encoder},
    named,
};

/// The longest file of weights that is read: twice a ResNet-152 with its classifier.
const MAX_BYTES: u64 = 512 << 20;

/// What became of each tensor of a file, and of each that the encoder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The file.
    pub file: String,
    /// Each name once, in order.
    pub tensors: Vec<(String, Fate)>,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is taken, with its shape.
    Loaded(Vec<usize>),
    /// PyTorch's counter of batches, of which nothing depends.
    Counter,
    /// The encoder has it, the file has not; it keeps its random start.
    Missing,
    /// The file has it, the encoder has not.
    Unexpected,
    /// Shapes of the encoder's and the file's; it keeps its random start.
    OtherShape(Vec<usize>, Vec<usize>),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(shape) => write!(f, "loaded {shape:?}"),
            Self::Counter => write!(f, "not needed"),
            Self::Missing => write!(f, "missing in the file, random"),
            Self::Unexpected => write!(f, "not in the encoder, left out"),
            Self::OtherShape(encoder, file) => {
                write!(f, "is {file:?} in the file and {encoder:?} in the encoder, random")
            }
        }
    }
}

/// The configuration with `encoder.init_sha256` filled in.
///
/// # Errors
/// If the file that `encoder.init` names cannot be read or fetched.
pub fn resolve(config: &Config, places: &Places) -> Result<Config, Failure> {
    let mut config = config.clone();
    let config::Encoder { init, init_sha256, init_allow, .. } = &mut config.encoder;
    match (init.is_empty(), init_sha256.is_empty() && init_allow.is_empty()) {
        (true, true) => (),
        (true, false) => {
            let message =
                "`encoder.init_sha256` and `init_allow` need `encoder.init`, which is empty";
            return Err(Failure::new(Code::Config, message).help("name a file with --init"));
        }
        // Known already: the file is read, and held against it, when the encoder starts.
        (false, _) if !init_sha256.is_empty() => (),
        (false, _) => *init_sha256 = sha256(&read(&find(init, places)?)?),
    }
    Ok(config)
}

/// A learner at its start on `device`, from the file that `encoder.init` names if it names one.
///
/// # Errors
/// If the file is not there, is another one than `encoder.init_sha256` says, is
/// damaged, or has other tensors than the encoder and `encoder.init_allow` together.
pub fn start(
    config: &Config,
    dtype: DType,
    places: &Places,
    device: &Device,
) -> anyhow::Result<(Learner, Option<InitReport>)> {
    let config::Encoder { init, init_sha256, init_allow, .. } = &config.encoder;
    if init.is_empty() {
        return Ok((Learner::on(device, config, dtype)?, None));
    }
    let path = &*find(init, places)?;
    let bytes = read(path)?;
    let found = sha256(&bytes);
    if found != *init_sha256 {
        let message = format!("has the SHA-256 {found}, the run was set up with {init_sha256}");
        return Err(Failure::at(Code::CheckpointHash, path, message)
            .help("put the run's own file back, or start another run")
            .into());
    }
    let encoder = seeded_encoder(config, dtype, device)?;
    let tensors =
        load(&bytes, &*encoder, init_allow).map_err(|Refused { code, message, help }| {
            let failure = Failure::at(code, path, message);
            match help {
                Some(help) => failure.help(help),
                None => failure,
            }
        })?;
    let report = InitReport { file: init.clone(), tensors };
    Ok((Learner::with_encoder(config, encoder, dtype)?, Some(report)))
}

/// The file that a name stands for.
fn find<'a>(init: &'a str, places: &Places) -> Result<Cow<'a, Path>, Failure> {
    if !init.starts_with("hub:") {
        return Ok(Path::new(init).into());
    }
    let found: Result<PathBuf, _> = init.parse::<HubWeights>().and_then(|hub| hub.find(places));
    Ok(found.map_err(Failure::of_data)?.into())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    match durable::read_at_most(path, MAX_BYTES) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            let message = format!("has more than {MAX_BYTES} bytes, expected a ResNet's weights");
            Err(Failure::at(Code::CheckpointHeader, path, message))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = "is not there, expected weights to start from (`encoder.init`)";
            Err(Failure::at(Code::Missing, path, message))
        }
        Err(error) => Err(Failure::io(path, "read", &error)),
    }
}

struct Refused {
    code: Code,
    message: String,
    help: Option<String>,
}

impl From<(Code, String)> for Refused {
    fn from((code, message): (Code, String)) -> Self {
        Self { code, message, help: None }
    }
}

impl From<candle_core::Error> for Refused {
    fn from(error: candle_core::Error) -> Self {
        (Code::Internal, error.to_string()).into()
    }
}

/// Puts a file's tensors into an encoder: all of them, or none.
fn load(
    bytes: &[u8],
    encoder: &dyn Encoder,
    allowed: &[String],
) -> Result<Vec<(String, Fate)>, Refused> {
    let file = open(bytes)?;
    let mut tensors = named::encoder_to_named(encoder)?;
    let names: BTreeSet<&str> =
        file.names().into_iter().chain(tensors.keys().map(String::as_str)).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let mut fates = Vec::new();
    for name in names {
        let fate = fate(&file, &name, &mut tensors)?;
        fates.push((name, fate));
    }
    let is_error = |(name, fate): &&(String, Fate)| {
        !matches!(fate, Fate::Loaded(_) | Fate::Counter) && !allowed.contains(name)
    };
    let errors: Vec<&(String, Fate)> = fates.iter().filter(is_error).collect();
    if !errors.is_empty() {
        return Err(refusal(&errors));
    }
    if let Some(name) = allowed.iter().find(|name| fates.iter().all(|(known, _)| known != *name)) {
        let message =
            format!("`encoder.init_allow`: neither the file nor the encoder has {name:?}");
        return Err((Code::Config, message).into());
    }
    named::set_encoder(encoder, &tensors)?;
    Ok(fates)
}

/// Puts the file's tensor of that name into `tensors` if it fits there.
fn fate(file: &SafeTensors<'_>, name: &str, tensors: &mut NamedTensors) -> Result<Fate, Refused> {
    let Ok(view) = file.tensor(name) else { return Ok(Fate::Missing) };
    let Some(mine) = tensors.get_mut(name) else {
        let norm = name.strip_suffix(".num_batches_tracked");
        let is_counter =
            norm.is_some_and(|norm| tensors.contains_key(&format!("{norm}.running_mean")));
        return Ok(if is_counter { Fate::Counter } else { Fate::Unexpected });
    };
    if view.shape() != mine.dims() {
        return Ok(Fate::OtherShape(mine.dims().to_vec(), view.shape().to_vec()));
    }
    let shape = |what: String| (Code::CheckpointShape, format!("{name:?} {what}"));
    let dtype = DType::try_from(view.dtype()).ok().filter(|dtype| dtype.is_float());
    let Some(dtype) = dtype else {
        let message = shape(format!("is {:?}, expected floating-point numbers", view.dtype()));
        return Err(message.into());
    };
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?
        .to_dtype(mine.dtype())?;
    let bad = count_not_finite(&tensor)?;
    if bad > 0 {
        let message = format!("{name:?} has {bad} values that are not finite");
        return Err((Code::NotFinite, message).into());
    }
    if name.ends_with(".running_var")
        && tensor.min_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? < 0.0
    {
        return Err(shape("has negative values, which no variance has".to_owned()).into());
    }
    *mine = tensor;
    Ok(Fate::Loaded(mine.dims().to_vec()))
}

/// The first few of what does not fit, and how to allow all of it.
fn refusal(errors: &[&(String, Fate)]) -> Refused {
    const SHOWN: usize = 4;
    let named = |(name, fate): &&(String, Fate)| {
        // What the error prevents is not told.
        let fate = fate.to_string();
        let fate = fate.trim_end_matches(", random").trim_end_matches(", left out");
        format!("{name:?} {fate}")
    };
    let mut message: Vec<String> = errors.iter().take(SHOWN).map(named).collect();
    if errors.len() > SHOWN {
        message.push(format!("and {} more", errors.len() - SHOWN));
    }
    let help = match errors.len() <= SHOWN {
        true => {
            let names: Vec<&str> = errors.iter().map(|(name, _)| name.as_str()).collect();
            format!("if that is meant: --init-allow {}", names.join(" --init-allow "))
        }
        false => {
            "see `encoder.depth`, `stem` and `width`; --init-allow KEY lets a key pass".to_owned()
        }
    };
    Refused { code: Code::CheckpointShape, message: message.join(", "), help: Some(help) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use metamask_encoders::{BatchStats, Stem};

    use super::*;
    use crate::{
        checkpoint::{State, encode},
        config::Precision,
        export::{ExportOptions, Library, MaskExport, export},
    };

    /// torchvision's own network, images and features (xtask/golden/interop.py).
    struct Fixture {
        model: NamedTensors,
        images: Tensor,
        features: Tensor,
    }

    impl Fixture {
        fn of(stem: &str) -> anyhow::Result<Self> {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("tests/fixtures/interop_{stem}.safetensors"));
            let mut all: NamedTensors =
                candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
            let mut take = |name: &str| all.remove(name).expect("in the fixture");
            let (images, features) = (take("images"), take("features"));
            let name = |name: &str| name.strip_prefix("model.").expect("a model's").to_owned();
            let model = all.iter().map(|(key, tensor)| (name(key), tensor.clone())).collect();
            Ok(Self { model, images, features })
        }

        fn config(&self, stem: Stem, folder: &Path) -> anyhow::Result<Config> {
            let path = folder.join("start.safetensors");
            std::fs::write(&path, encode(&self.model, "{}")?)?;
            let mut config = Config::default();
            (config.encoder.width, config.encoder.stem) = (4, stem);
            config.engine.precision = Precision::Exact;
            config.encoder.init = path.to_str().expect("UTF-8").to_owned();
            Ok(config)
        }
    }

    #[test]
    fn torchvision_s_weights_give_its_features_and_come_out_again() -> anyhow::Result<()> {
        // Of the largest feature: f32 against torchvision in f64.
        const TOLERANCE: f64 = 1e-5;
        for (name, stem) in [("cifar", Stem::Cifar), ("imagenet", Stem::ImageNet)] {
            let (fixture, folder) = (Fixture::of(name)?, tempfile::tempdir()?);
            let config = resolve(&fixture.config(stem, folder.path())?, &Places::default())?;
            let (learner, report) = start(&config, DType::F32, &Places::default(), &Device::Cpu)?;
            let theta = learner.theta().encoder;
            let features = learner.encoder.forward(&fixture.images, &theta, BatchStats::Running)?;
            let number = |t: Tensor| t.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
            let apart = number((&features - &fixture.features)?.abs()?)?;
            let scale = number(fixture.features.abs()?)?;
            assert!(apart < TOLERANCE * scale, "{name}: {apart:.1e} of {scale}");

            let tensors = report.expect("there is a file").tensors;
            let count = |fate: fn(&Fate) -> bool| tensors.iter().filter(|(_, f)| fate(f)).count();
            assert_eq!(count(|fate| matches!(fate, Fate::Loaded(_))), 100);
            assert_eq!(count(|fate| matches!(fate, Fate::Counter)), 20);
            assert_eq!(tensors.len(), 120);

            let out = folder.path().join("out.safetensors");
            let (library, mask) = (Library::Torchvision, MaskExport::Apart);
            let options = ExportOptions { library, mask, out: out.clone() };
            export(&config, (&learner, State::default()), None, &options)?;
            let again = candle_core::safetensors::load(&out, &Device::Cpu)?;
            assert_eq!(again.len(), fixture.model.len());
            for (name, tensor) in &fixture.model {
                if !name.ends_with("num_batches_tracked") {
                    let bits = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
                    assert_eq!(
                        (tensor.dims(), bits(tensor)?),
                        (again[name].dims(), bits(&again[name])?)
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_unless_it_is_allowed_by_name() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let scalar = |x: f32| Tensor::full(x, 4, &Device::Cpu).expect("a tensor");
        let begin = |edit: &dyn Fn(&mut NamedTensors), allow: &[&str]| {
            let mut fixture = Fixture::of("cifar")?;
            edit(&mut fixture.model);
            let mut config = fixture.config(Stem::Cifar, folder.path())?;
            config.encoder.init_allow = allow.iter().map(|&name| name.to_owned()).collect();
            let places = Places::default();
            let config = resolve(&config, &places)?;
            Ok::<_, anyhow::Error>(
                start(&config, DType::F32, &places, &Device::Cpu)?.1.expect("a report"),
            )
        };
        let check = |edit: &dyn Fn(&mut NamedTensors), allow: &[&str], code: Code, words: &str| {
            let error = begin(edit, allow).map(|_| ()).expect_err(words);
            let failure = error.downcast::<Failure>().expect("a failure");
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.to_string().contains(words), "`{words}` in {failure}");
        };
        let shape = Code::CheckpointShape;
        let fc = |model: &mut NamedTensors| drop(model.insert("fc.weight".into(), scalar(1.0)));
        check(&fc, &[], shape, "\"fc.weight\" not in the encoder");
        check(&fc, &[], shape, "--init-allow fc.weight");
        let report = begin(&fc, &["fc.weight"])?;
        assert!(report.tensors.contains(&("fc.weight".to_owned(), Fate::Unexpected)));

        let without = |model: &mut NamedTensors| drop(model.remove("bn1.bias"));
        check(&without, &[], shape, "\"bn1.bias\" missing in the file");
        begin(&without, &["bn1.bias"])?;
        let other = |model: &mut NamedTensors| {
            model.insert("conv1.weight".into(), scalar(1.0));
        };
        check(&other, &[], shape, "is [4] in the file and [4, 3, 3, 3] in the encoder");
        let nan =
            |model: &mut NamedTensors| drop(model.insert("bn1.bias".into(), scalar(f32::NAN)));
        check(&nan, &["bn1.bias"], Code::NotFinite, "4 values that are not finite");
        let negative =
            |model: &mut NamedTensors| drop(model.insert("bn1.running_var".into(), scalar(-1.0)));
        check(&negative, &[], shape, "negative values");
        check(&|_| (), &["fc.weight"], Code::Config, "has \"fc.weight\"");
        let all = |model: &mut NamedTensors| {
            *model =
                model.iter().map(|(name, t)| (format!("backbone.{name}"), t.clone())).collect();
        };
        check(&all, &[], shape, "and 216 more");
        Ok(())
    }

    #[test]
    fn another_file_than_the_one_set_up_with_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let fixture = Fixture::of("cifar")?;
        let places = Places::default();
        let config = resolve(&fixture.config(Stem::Cifar, folder.path())?, &places)?;
        let file = PathBuf::from(&config.encoder.init);
        let mut bytes = std::fs::read(&file)?;
        assert_eq!(config.encoder.init_sha256, sha256(&bytes));
        *bytes.last_mut().expect("bytes") ^= 1;
        std::fs::write(&file, &bytes)?;
        assert_eq!(resolve(&config, &places)?, config, "what stands there stays");
        let code = |config: &Config| {
            let error = resolve(config, &places)
                .map_err(anyhow::Error::from)
                .and_then(|config| start(&config, DType::F32, &places, &Device::Cpu))
                .map(|_| ())
                .expect_err("refused");
            error.downcast::<Failure>().expect("a failure").code
        };
        assert_eq!(code(&config), Code::CheckpointHash);
        std::fs::remove_file(&file)?;
        assert_eq!(code(&config), Code::Missing);

        let with = |edit: fn(&mut config::Encoder)| {
            let mut config = Config::default();
            edit(&mut config.encoder);
            config
        };
        assert_eq!(code(&with(|e| e.init = "hub:timm/resnet18.a1_in1k@0".into())), Code::Config);
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let pinned = Config {
            encoder: config::Encoder { init: format!("hub:a/b@{commit}"), ..Default::default() },
            ..Config::default()
        };
        assert_eq!(code(&pinned), Code::Missing, "no cache and no network");
        assert_eq!(code(&with(|e| e.init_allow = vec!["fc.weight".into()])), Code::Config);
        std::fs::write(&file, b"PK")?;
        let mut short = config.clone();
        short.encoder.init_sha256.clear();
        assert_eq!(code(&short), Code::CheckpointHeader);
        Ok(())
    }
}
