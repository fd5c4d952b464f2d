//! Results do not depend on the number of threads.
//!
//! Candle and rayon read the number once for a process, so the test runs
//! itself again with another one.

use std::process::Command;

use candle_core::{Device, Result, Tensor};
use metamask_eval::{
    Knn, LinearProbe, effective_rank, knn_predict, leave_one_out, redundancy, risk_bounds,
};
use metamask_random::{Key, Purpose};

const CHILD: &str = "METAMASK_TEST_CHILD";

#[test]
fn results_are_bit_identical_for_any_number_of_threads() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        println!("\nfingerprint {}", fingerprint()?);
        return Ok(());
    }
    let of_threads = |n: usize| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "results_are_bit_identical_for_any_number_of_threads"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .env("RAYON_NUM_THREADS", n.to_string())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let line = stdout.lines().find(|line| line.starts_with("fingerprint"));
        line.unwrap_or_else(|| panic!("no result with {n} threads: {stdout}")).to_owned()
    };
    let single = of_threads(1);
    for n in [2, 3, 4] {
        assert_eq!(of_threads(n), single, "{n} threads");
    }
    Ok(())
}

/// Bits of everything that was computed, folded into one number (FNV-1a).
fn fingerprint() -> Result<u64> {
    let mut stream = Key::new(9, Purpose::Test).stream();
    let labels: Vec<u32> = (0..1500).map(|_| stream.below(7)).collect();
    let values: Vec<f32> = (0..1500 * 65).map(|_| stream.normal() as f32).collect();
    let features = Tensor::from_vec(values, (1500, 65), &Device::Cpu)?;

    let neighbours = knn_predict(&features, &labels, &features, Knn::default(), 7)?;
    let probe = LinearProbe { max_iterations: 30, ..Default::default() };
    let fitted = probe.fit(&features, &labels, 7)?;
    let rank = effective_rank(&features)?;

    let (some, of_some) = (features.narrow(0, 0, 200)?, &labels[..200]);
    let left_out = leave_one_out((&some, of_some), (&some, of_some), 7, Knn::default())?;
    let correlation = redundancy(&features)?.absolute_correlation;
    let bounds = risk_bounds((&features, &features), &labels, 7, 0.2, 250)?;

    let words = neighbours.into_iter().map(u64::from);
    let numbers = fitted.weight.iter().chain(&fitted.bias).chain([&fitted.loss, &rank]);
    let numbers = numbers.chain(&left_out.vote_drop).chain(&correlation);
    let numbers = numbers.chain([&bounds.contrastive_loss, &bounds.cross_entropy]);
    let bits = words.chain(numbers.map(|number| number.to_bits()));
    Ok(bits.fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3)))
}
