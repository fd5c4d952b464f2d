//! `metamask export`: a run's encoder as a file for PyTorch.

use candle_core::DType;
use metamask_train::{
    Learner,
    checkpoint::Checkpoints,
    export::{ExportOptions, Library, MaskExport, export},
    run_folder, shown,
};

use crate::{
    arguments::{ExportArguments, LibraryName, MaskPlacement},
    commands::restore_latest,
    print,
};

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    let checkpoints = Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?;
    let mut learner = Learner::new(&config, DType::F32)?;
    let state = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let options = ExportOptions {
        library: match arguments.to {
            LibraryName::Torchvision => Library::Torchvision,
            LibraryName::Timm => Library::Timm,
        },
        mask: match arguments.mask {
            MaskPlacement::Apart => MaskExport::Apart,
            MaskPlacement::Folded => MaskExport::Folded,
        },
        out: arguments.out.clone(),
    };
    let results = run_folder::read_results(run)?;
    let files = export(&config, (&learner, state), results.as_ref(), &options)?;
    let lines: String = files.iter().map(|file| format!("{}\n", shown(file))).collect();
    print::to_stdout(&lines)
}
