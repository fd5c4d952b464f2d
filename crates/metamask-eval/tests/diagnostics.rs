//! Every diagnostic against what `xtask/golden/diagnostics.py` computed with NumPy.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Result, Tensor};
use metamask_eval::{
    Knn, alpha_req, auc, class_information, conditional_variance, covariance_spectrum,
    effective_rank, joint_variance_share, leave_one_out, participation_ratio, rank_me, redundancy,
    risk_bounds, spearman, variance_share,
};

struct Fixture(HashMap<String, Tensor>);

impl Fixture {
    fn load() -> Result<Self> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diagnostics.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).map(Self)
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        self.0[name].flatten_all()?.to_vec1()
    }

    fn indices(&self, name: &str) -> Result<Vec<u32>> {
        self.0[name].to_vec1()
    }

    #[track_caller]
    fn check(&self, name: &str, got: &[f64], atol: f64) {
        let expected = self.numbers(name).expect("in the fixture");
        assert_eq!(got.len(), expected.len(), "{name}");
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() <= atol, "{name}: {got}, expected {expected}");
        }
    }
}

/// Sums of a hundred terms of size 1 to 100, in f64.
const ATOL: f64 = 1e-10;

#[test]
fn spectra_equal_numpy_s() -> Result<()> {
    let fixture = Fixture::load()?;
    let x = &fixture.0["features"];
    // A constant column: its σ is rounding, of which the Gram matrix makes its root.
    fixture.check("effective_rank", &[effective_rank(x)?], 1e-5);
    fixture.check("rank_me", &[rank_me(x)?], 1e-5);
    fixture.check("participation_ratio", &[participation_ratio(x)?], ATOL);
    let spectrum = covariance_spectrum(x)?;
    fixture.check("spectrum", &spectrum, ATOL);
    let law = alpha_req(&spectrum, 2..=6).expect("five eigenvalues");
    fixture.check("alpha_req", &[law.alpha, law.log_scale], ATOL);
    Ok(())
}

#[test]
fn dimensions_and_groups_equal_numpy_s() -> Result<()> {
    let fixture = Fixture::load()?;
    let x = &fixture.0["features"];
    let (labels, hue) = (fixture.indices("labels")?, fixture.indices("hue")?);
    let found = redundancy(x)?;
    fixture.check("correlation", &found.absolute_correlation, ATOL);
    fixture.check("mean_correlation", &[found.mean_off_diagonal.expect("they vary")], ATOL);
    fixture.check("class_share", &variance_share(x, &labels, 3)?, ATOL);
    fixture.check("hue_share", &variance_share(x, &hue, 4)?, ATOL);
    let tone = fixture.indices("tone")?;
    let both = joint_variance_share(x, &[(&hue, 4), (&tone, 4)])?;
    fixture.check("hue_and_tone_share", &both.shares, ATOL);
    fixture.check("conditional_variance", &conditional_variance(x, &labels, 3)?, ATOL);
    fixture.check("information", &class_information(x, &labels, 3, 4)?, ATOL);
    Ok(())
}

#[test]
fn knn_without_a_dimension_equals_numpy_s() -> Result<()> {
    let fixture = Fixture::load()?;
    let (x, labels) = (&fixture.0["features"], fixture.indices("labels")?);
    let (bank, queries) = (x.narrow(0, 0, 60)?, x.narrow(0, 60, 30)?);
    let knn = Knn { k: 5, temperature: 0.2 };
    let found = leave_one_out((&bank, &labels[..60]), (&queries, &labels[60..]), 3, knn)?;
    // f32 cosines move a vote by 1e-6 of it.
    fixture.check("knn", &[found.accuracy_percent, found.vote_percent], 1e-3);
    fixture.check("accuracy_drop", &found.accuracy_drop, 1e-3);
    fixture.check("vote_drop", &found.vote_drop, 1e-3);
    Ok(())
}

#[test]
fn ranks_equal_numpy_s() -> Result<()> {
    let fixture = Fixture::load()?;
    let (a, b) = (fixture.numbers("a")?, fixture.numbers("b")?);
    fixture.check("spearman", &[spearman(&a, &b).expect("they vary")], ATOL);
    let member: Vec<bool> = b.iter().map(|&b| b > 0.0).collect();
    fixture.check("auc", &[auc(&a, &member).expect("two kinds")], ATOL);
    Ok(())
}

#[test]
fn bounds_equal_numpy_s() -> Result<()> {
    let fixture = Fixture::load()?;
    let (z_a, z_b) = (&fixture.0["z_a"], &fixture.0["z_b"]);
    let bounds = risk_bounds((z_a, z_b), &fixture.indices("labels")?, 3, 0.3, 20)?;
    assert_eq!((bounds.samples, bounds.negatives, bounds.classes), (80, 38, 3));
    let (printed, unit) = (bounds.as_printed(), bounds.at_temperature());
    let terms = [
        bounds.contrastive_loss,
        bounds.nt_xent,
        bounds.cross_entropy,
        bounds.variance,
        bounds.deviation_sum,
        printed.middle,
    ];
    fixture.check("bound_terms", &terms, ATOL);
    fixture.check("bounds_printed", &[printed.lower, printed.sister_lower, printed.upper], ATOL);
    fixture.check("bounds_unit", &[unit.lower, unit.sister_lower, unit.upper], ATOL);
    Ok(())
}
