//! `metamask evaluate`: the numbers of a run, on its own images or on others.

use candle_core::DType;
use metamask_data::DatasetSpec;
use metamask_train::{
    Code, Config, Evaluated, Failure, FineTune, Learner, Measure,
    checkpoint::{Checkpoints, Identity, State},
    load_data, run_folder,
};

use crate::{
    arguments::{EvaluateArguments, FineTuneArguments, ProtocolName},
    commands::{restore_latest, set_threads},
    print,
    progress::Progress,
};

pub(crate) fn run(arguments: &EvaluateArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    let measures = measures(&arguments.protocols, &arguments.fine_tune)?;
    let device = arguments.device.open()?;
    let (seen, folder) = (evaluated(&config, arguments.data.as_deref())?, run.join("checkpoints"));
    let places = arguments.places.places()?;
    let data = load_data(&seen, &places)?;
    if data.train.is_empty() && !arguments.protocols.is_empty() {
        let message = format!("`--protocol`: {} has no labels to be right about", data.name);
        return Err(Failure::new(Code::Usage, message)
            .help("leave it out: such images are judged by how the dimensions are used; or name a labelled set with --data")
            .into());
    }
    let mut learner = Learner::on(&device, &config, DType::F32)?;
    let checkpoints = match arguments.data {
        // The run's own data need not be here.
        Some(_) => Checkpoints::to_inspect(folder, config_sha256)?,
        None => Checkpoints {
            folder,
            identity: Identity { config_sha256, data_sha256: data.fingerprint() },
            keep: config.checkpoint.keep,
        },
    };
    let State { step, epoch, .. } = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let mut progress = Progress::new();
    let at = (step, epoch);
    let subject = Evaluated { config: &seen, data: &data, learner: &learner, at, places: &places };
    let results = metamask_train::evaluate(&subject, &measures, &mut progress);
    progress.finish();
    let mut results = results?;
    if arguments.data.is_some() {
        let learned_from = match data.train.is_empty() {
            true => "",
            false => ", and whatever needs labels learned from these training images",
        };
        results.split = format!(
            "{}; transfer: encoder and mask trained on {}{learned_from}",
            results.split, config.data.dataset
        );
    }
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&results)? + "\n")),
        false => print::to_stdout(&print::results_table(&results)),
    }
}

/// What is measured: kNN and linear probe unless protocols are named, each once.
fn measures(
    protocols: &[ProtocolName],
    fine_tune: &FineTuneArguments,
) -> Result<Vec<Measure>, Failure> {
    let wants = |name: ProtocolName| protocols.contains(&name);
    let mut measures = Vec::new();
    if protocols.is_empty() || wants(ProtocolName::Knn) {
        measures.push(Measure::Knn);
    }
    if protocols.is_empty() || wants(ProtocolName::Linear) {
        measures.push(Measure::Linear);
    }
    let FineTuneArguments { labels, epochs, learning_rate, batch_size, seed } = fine_tune;
    if !wants(ProtocolName::FineTune) {
        let is_given = !labels.is_empty()
            || epochs.is_some()
            || learning_rate.is_some()
            || batch_size.is_some()
            || seed.is_some();
        return match is_given {
            false => Ok(measures),
            true => {
                let message = "`--labels`, `--epochs`, `--learning-rate`, `--batch-size` and \
                               `--seed` belong to `--protocol fine-tune`";
                Err(Failure::new(Code::Usage, message).help("add `--protocol fine-tune`"))
            }
        };
    }
    let all = [1.0];
    let shares = if labels.is_empty() { &all[..] } else { labels };
    measures.extend(shares.iter().map(|&labels| {
        Measure::FineTune(FineTune {
            labels,
            epochs: *epochs,
            learning_rate: *learning_rate,
            batch_size: *batch_size,
            seed: *seed,
        })
    }));
    Ok(measures)
}

/// A run's configuration with the data that it is evaluated on: its own, or another set as a whole.
pub(crate) fn evaluated(config: &Config, name: Option<&str>) -> anyhow::Result<Config> {
    let mut config = config.clone();
    if let Some(name) = name {
        let spec = name.parse::<DatasetSpec>();
        config.data.dataset = spec.map_err(|error| Failure::from_data(error.into()))?;
        (config.data.train_images, config.data.validation_images) = (0, 0);
        // Nothing is trained, so that a small set is no reason to stop.
        config.training.batch_size = 2;
    }
    Ok(config)
}
