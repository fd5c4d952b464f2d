//! The linear probe against the one that `xtask/golden/eval.py` solved by
//! Newton's method.

use std::path::Path;

use candle_core::{Device, Result};
use metamask_eval::LinearProbe;

#[test]
fn linear_probe_equals_newton_s_solution() -> Result<()> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/linear_probe.safetensors");
    let fixture = candle_core::safetensors::load(path, &Device::Cpu)?;
    let numbers = |name: &str| fixture[name].to_vec1::<f64>();

    let probe = LinearProbe {
        penalty: numbers("penalty")?[0],
        max_iterations: 1000,
        gradient_tolerance: 1e-10,
    };
    let fitted = probe.fit(&fixture["features"], &fixture["labels"].to_vec1()?, 3)?;
    assert!(fitted.converged, "gradient still above the tolerance");

    // A gradient of 1e-10 over the least curvature, the penalty's 0.02, is 5e-9.
    let close = |ours: &[f64], expected: &[f64], atol: f64| {
        assert_eq!(ours.len(), expected.len());
        for (a, b) in ours.iter().zip(expected) {
            assert!((a - b).abs() < atol, "{a} {b}");
        }
    };
    close(&fitted.weight, &numbers("weight")?, 1e-8);
    close(&fitted.bias, &numbers("bias")?, 1e-8);
    close(&[fitted.loss], &numbers("loss")?, 1e-12);
    Ok(())
}
