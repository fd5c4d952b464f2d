//! `metamask bench knn`: the neighbours' vote on random features.

use candle_core::Tensor;
use clap::Args;
use metamask_eval::{Knn, knn_predict};
use metamask_ops::Precision;
use metamask_random::{Key, Purpose};
use metamask_train::{Code, Failure};
use serde_json::json;

use super::profile::percent;
use super::{Common, grouped, machine, median, peak, times};
use crate::device::{DeviceArgument, peak_mib_of};
use crate::print;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask bench knn
  metamask bench knn --bank 100000 --dim 2048 --k 20
  metamask bench knn --device cuda:0

Classifies random features by random neighbours: cosines, the k largest, their weighted vote.")]
pub(super) struct BenchKnnArguments {
    /// Features to classify
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    queries: u32,
    /// Features with labels
    #[arg(long, value_name = "N", default_value_t = 50_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    bank: u32,
    /// Width of the features
    #[arg(long, value_name = "N", default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    dim: u32,
    /// Neighbours that vote
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    k: u32,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    common: Common,
}

const ROUNDS: usize = 3;
const CLASSES: u32 = 10;

pub(super) fn run(arguments: &BenchKnnArguments) -> anyhow::Result<()> {
    let BenchKnnArguments { queries, bank, dim, k, ref device, ref common } = *arguments;
    if k > bank {
        let message =
            format!("--k: {k} neighbours of a bank of {bank}, expected no more than that");
        return Err(Failure::new(Code::Usage, message).into());
    }
    let machine = machine(common)?;
    let there = device.open()?;
    let key = Key::new(0, Purpose::Test);
    let features = |rows: u32, key: Key| -> anyhow::Result<Tensor> {
        let (rows, dim) = (rows as usize, dim as usize);
        let mut stream = key.stream();
        let values: Vec<f32> = (0..rows * dim).map(|_| stream.normal() as f32).collect();
        Ok(Tensor::from_vec(values, (rows, dim), &there)?)
    };
    let (bank_features, query_features) = (features(bank, key)?, features(queries, key.sample(1))?);
    let mut stream = key.view(1).stream();
    let labels: Vec<u32> = (0..bank).map(|_| stream.below(CLASSES)).collect();
    let knn = Knn { k: k as usize, temperature: 0.1 };
    let times = times(ROUNDS, || {
        knn_predict(&bank_features, &labels, &query_features, knn, CLASSES as usize)?;
        Ok(())
    })?;
    let ms = median(&times);
    let gflops = 2e-6 * f64::from(queries) * f64::from(bank) * f64::from(dim) / ms;
    // What a GPU could do is not measured.
    let peak = there.is_cpu().then(|| peak::gflops(Precision::Exact));
    let rate = 1e3 * f64::from(queries) / ms;
    if common.json {
        let value = json!({
            "machine": machine,
            "device": device.name(),
            "queries": queries,
            "bank": bank,
            "dim": dim,
            "k": k,
            "median_ms": ms,
            "min_ms": times[0],
            "queries_per_second": rate,
            "gflops": gflops,
            "peak_gflops": peak,
            "peak_mib": peak_mib_of(&there),
        });
        return print::to_stdout(&format!("{value}\n"));
    }
    let memory = peak_mib_of(&there).map_or_else(String::new, |mib| {
        format!("memory at most {mib:.0} MiB, of which features {:.0}\n", mebibytes(arguments))
    });
    let share = peak.map_or_else(String::new, |peak| {
        format!(", {} of the peak ({peak:.0})", percent(gflops / peak))
    });
    let place = if there.is_cpu() { String::new() } else { format!("{}, ", device.name()) };
    print::to_stdout(&format!(
        "kNN: {} queries, a bank of {} of width {dim}, k = {k}\n{place}{machine}, median of {ROUNDS}\n\n\
         {ms:.0} ms, {} queries/s; cosines at {gflops:.0} GFLOP/s{share}\n{memory}",
        grouped(f64::from(queries)),
        grouped(f64::from(bank)),
        grouped(rate),
    ))
}

/// Of bank and queries.
fn mebibytes(arguments: &BenchKnnArguments) -> f64 {
    let rows = f64::from(arguments.queries) + f64::from(arguments.bank);
    rows * f64::from(arguments.dim) * 4.0 / f64::from(1 << 20)
}
