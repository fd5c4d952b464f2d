//! Features, embeddings and gradients do not depend on the number of threads.
//!
//! Candle and rayon read the number once for a process, so the test runs
//! itself again with another one.

use std::process::Command;

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{BatchStats, Encoder, Mlp, MlpConfig, ResNet, ResNetConfig};
use metamask_random::{Key, Purpose};

const NAME: &str = "results_are_bit_identical_for_any_number_of_threads";
const CHILD: &str = "METAMASK_TEST_CHILD";

#[test]
fn results_are_bit_identical_for_any_number_of_threads() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        println!("\nfingerprint {:x}", fingerprint()?);
        return Ok(());
    }
    let of_threads = |n: usize| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
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

/// Bits of a training pass's features, embeddings, gradients and running
/// statistics, folded into one number (FNV-1a).
fn fingerprint() -> Result<u64> {
    let key = Key::new(2, Purpose::Initialisation);
    let config = ResNetConfig { width: 16, ..Default::default() };
    let encoder = ResNet::new(&config, key, DType::F32, &Device::Cpu)?;
    let config = MlpConfig { input: 128, hidden: vec![200], output: 60, final_norm: true };
    let head = Mlp::new("head", &config, key.sample(1), DType::F32, &Device::Cpu)?;
    let groups = || encoder.parameters().iter().chain(head.parameters());

    let mut stream = Key::new(2, Purpose::Test).stream();
    let views: Vec<f32> = (0..24 * 20 * 20 * 3).map(|_| stream.normal() as f32).collect();
    let views = Tensor::from_vec(views, (24, 20, 20, 3), &Device::Cpu)?;
    let theta: Vec<Tensor> = groups().map(|group| group.tensor().clone()).collect();

    let features = encoder.forward(&views, &theta[..1], BatchStats::BatchAndUpdate)?;
    let embeddings = head.forward(&features, &theta[1..], BatchStats::BatchAndUpdate)?;
    // A loss of which no gradient is zero by the normalisation's symmetries.
    let gradients = embeddings.sqr()?.mul(&embeddings)?.sum_all()?.backward()?;

    let mut results = vec![features, embeddings];
    results.extend(theta.iter().map(|t| gradients.get(t).expect("all are variables").clone()));
    let running = encoder.running_statistics().iter().chain(head.running_statistics());
    results.extend(running.map(|group| group.tensor().clone()));
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for tensor in results {
        for value in tensor.flatten_all()?.to_vec1::<f32>()? {
            assert!(value.is_finite());
            hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}
