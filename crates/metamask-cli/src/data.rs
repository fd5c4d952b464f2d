//! `metamask data`: what there is, getting it, checking it, looking at it.

use std::path::Path;

use metamask_data::{DataError, DatasetSpec, LoadOptions, Origin, load, status, verify};
use metamask_train::Failure;
use serde::Serialize;

use crate::data_arguments::{
    DataArguments, DataCommand, FetchArguments, ListArguments, VerifyArguments,
};
use crate::data_places::{self, bytes};
use crate::{data_preview, data_stats, print};

pub(crate) fn data(arguments: &DataArguments) -> anyhow::Result<()> {
    match &arguments.command {
        DataCommand::List(arguments) => list(arguments),
        DataCommand::Fetch(arguments) => fetch(arguments),
        DataCommand::Verify(arguments) => verify_set(arguments),
        DataCommand::Preview(arguments) => data_preview::preview(arguments),
        DataCommand::Stats(arguments) => data_stats::stats(arguments),
    }
    .map_err(Failure::from_data)
}

/// A data set in a list.
#[derive(Serialize)]
struct Listed {
    name: String,
    title: String,
    licence: String,
    source: String,
    /// Train, test and unlabelled images, as published.
    images: Option<[u32; 3]>,
    /// To download, by the preferred way, where that is known.
    download_bytes: Option<u64>,
    /// `embedded`, `data-dir`, `installed`, `cache`, `hub-cache` or `missing`.
    place: &'static str,
    files: Vec<String>,
    looked: Vec<String>,
    /// Whether its files were checked and decoded.
    verified: bool,
}

fn list(arguments: &ListArguments) -> anyhow::Result<()> {
    let specs: Vec<DatasetSpec> = match &arguments.names[..] {
        [] => DatasetSpec::named().collect(),
        names => names.iter().map(|name| name.parse()).collect::<Result<_, DataError>>()?,
    };
    let places = data_places::of(arguments.data_dir.clone(), true)?;
    let mut sets = Vec::new();
    for spec in specs {
        let mut set = Listed {
            name: spec.to_string(),
            title: spec.description(),
            licence: String::new(),
            source: String::new(),
            images: None,
            download_bytes: None,
            place: "embedded",
            files: Vec::new(),
            looked: Vec::new(),
            verified: true,
        };
        if let Some(manifest) = spec.manifest()? {
            let found = status(&manifest, &places)?;
            let paths = |paths: &[std::path::PathBuf]| {
                paths.iter().map(|path| metamask_train::shown(path)).collect()
            };
            let images = manifest.images;
            set.licence = manifest.licence.clone();
            set.source = manifest.source.clone();
            set.images = Some([images.train, images.test, images.unlabelled]);
            set.download_bytes = download_bytes(&manifest);
            set.place = found.origin.map_or("missing", Origin::name);
            set.files = paths(&found.files);
            set.looked = paths(&found.looked);
            set.verified = found.is_verified;
        } else if let DatasetSpec::Folder(path) = &spec {
            set.place = if path.is_dir() { "data-dir" } else { "missing" };
            set.files = vec![metamask_train::shown(path)];
            set.verified = false;
        }
        sets.push(set);
    }
    if arguments.json {
        #[derive(Serialize)]
        struct Sets {
            sets: Vec<Listed>,
        }
        return print::to_stdout(&(serde_json::to_string(&Sets { sets })? + "\n"));
    }
    let text: String = sets.iter().map(block).collect();
    print::to_stdout(&text)
}

fn download_bytes(manifest: &metamask_data::Manifest) -> Option<u64> {
    let hub = manifest.hub.iter().flat_map(|hub| &hub.file).map(|file| file.bytes);
    let hub: Option<u64> = hub.sum();
    let page = manifest.download.iter().map(|download| download.bytes).sum();
    hub.filter(|&bytes| bytes > 0).or(Some(page)).filter(|&bytes| bytes > 0)
}

fn block(set: &Listed) -> String {
    let mut text = format!("{:15} {}\n", set.name, set.title);
    let mut line = |line: String| text += &format!("{:15} {line}\n", "");
    if let Some([train, test, unlabelled]) = set.images {
        let more =
            if unlabelled > 0 { format!(" + {unlabelled} unlabelled") } else { String::new() };
        let size =
            set.download_bytes.map_or_else(String::new, |n| format!("; {} to fetch", bytes(n)));
        line(format!("{train} + {test} test images{more}{size}"));
        line(format!("licence: {}", set.licence));
    }
    match (set.place, set.verified) {
        ("embedded", _) => line("here: part of the program".to_owned()),
        ("missing", _) => line(format!("not here; looked in {}", set.looked.join(", "))),
        (place, true) => line(format!("here and verified ({place}): {}", set.files.join(", "))),
        (place, false) => line(format!("here ({place}): {}", set.files.join(", "))),
    }
    text
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &FetchArguments) -> anyhow::Result<()> {
    let message = "this build fetches nothing (it was built without the feature `hub`)";
    Err(Failure::new(metamask_train::Code::Usage, message).into())
}

#[cfg(feature = "hub")]
fn fetch(arguments: &FetchArguments) -> anyhow::Result<()> {
    use metamask_data::hub::{self, From};
    use metamask_train::Code;

    use crate::data_arguments::FetchSource;

    let mut places = data_places::of(None, arguments.offline)?;
    let from = match arguments.from {
        None => From::Any,
        Some(FetchSource::Hub) => From::Hub,
        Some(FetchSource::Original) => From::Original,
    };
    match &mut places.network {
        Some(network) => network.from = from,
        None if !arguments.dry_run => {
            let message = "offline, so that nothing can be fetched";
            return Err(Failure::new(Code::Usage, message).into());
        }
        None => {}
    }
    for name in &arguments.names {
        let spec: DatasetSpec = name.parse()?;
        let Some(manifest) = spec.manifest()? else {
            print::to_stdout(&format!("{name}: nothing to fetch, it is here\n"))?;
            continue;
        };
        if let Some(origin) = status(&manifest, &places)?.origin
            && !arguments.dry_run
        {
            print::to_stdout(&format!("{name}: is here already ({})\n", origin.name()))?;
            continue;
        }
        let ways = hub::plan(&manifest, &places)?;
        let say = |line: &str| match arguments.dry_run {
            true => print::to_stdout(&format!("{line}\n")),
            false => {
                print::to_stderr(line);
                Ok(())
            }
        };
        for (i, way) in ways.iter().enumerate() {
            let which = if i == 0 { "will download" } else { "or, if that fails" };
            say(&format!("{name}: {which}"))?;
            for file in &way.files {
                let size = file.bytes.map_or_else(|| "size unpublished".to_owned(), bytes);
                let pin = if file.is_pinned { "" } else { ", unpinned" };
                let place = metamask_train::shown(&file.path);
                say(&format!("  {} ({size}{pin})\n    to {place}", file.url))?;
            }
        }
        say(&format!("{name}: licence: {}", manifest.licence))?;
        if arguments.dry_run {
            continue;
        }
        hub::fetch(&manifest, &places)?;
        let found = status(&manifest, &places)?;
        let files: Vec<String> =
            found.files.iter().map(|path| metamask_train::shown(path)).collect();
        print::to_stdout(&format!("{name}: fetched and verified: {}\n", files.join(", ")))?;
    }
    Ok(())
}

fn verify_set(arguments: &VerifyArguments) -> anyhow::Result<()> {
    let spec: DatasetSpec = arguments.name.parse()?;
    let places = data_places::of(arguments.data_dir.clone(), true)?;
    let options = LoadOptions { places, ..LoadOptions::default() };
    let Some(manifest) = spec.manifest()? else {
        // Embedded files are compared with their sums whenever they are loaded.
        let set = load(&spec, &options)?;
        let line =
            format!("{}: {} + {} images, verified\n", set.name, set.train.len(), set.test.len());
        return print::to_stdout(&line);
    };
    let verified = verify(&manifest, &options)?;
    let [test, train, unlabelled] = verified.images;
    let mut text = String::new();
    for (name, sha256) in &verified.files {
        text += &format!("{sha256}  {}\n", metamask_train::shown(Path::new(name)));
    }
    for note in &verified.notes {
        text += &format!("note: {note}\n");
    }
    text += &format!(
        "{}: verified, {train} + {test} test + {unlabelled} unlabelled images, pixels {}\n",
        manifest.name, verified.pixels_sha256
    );
    print::to_stdout(&text)
}
