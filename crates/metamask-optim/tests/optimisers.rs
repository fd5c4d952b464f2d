//! Optimisers against PyTorch's, and LARS against its formula
//! (`xtask/golden/optimisers.py`).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{ParameterEntry, ParameterGroup, ParameterKind};
use metamask_optim::{LarsClipping, Optimizer, OptimizerConfig, OptimizerKind};

/// Absolute, on numbers of about 1: the same operations in another order.
const ATOL_F64: f64 = 1e-12;
/// The same of 50 steps, each rounded to 6e-8.
const ATOL_F32: f64 = 1e-5;

const STEPS: usize = 50;

struct Fixture(BTreeMap<String, Tensor>);

impl Fixture {
    fn load() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let tensors =
            candle_core::safetensors::load(folder.join("optimisers.safetensors"), &Device::Cpu)?;
        Ok(Self(tensors.into_iter().collect()))
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        self.get(name).flatten_all()?.to_vec1()
    }

    /// A group's numbers, flat, of the tensors `<prefix>.<name>`; of `step`, where they have steps.
    fn flat(&self, prefix: &str, group: &ParameterGroup, step: Option<usize>) -> Result<Tensor> {
        let part = |entry: &ParameterEntry| {
            let tensor = self.get(&format!("{prefix}.{}", entry.name));
            let tensor = match step {
                Some(step) => tensor.get(step)?,
                None => tensor.clone(),
            };
            match entry.kind {
                ParameterKind::Convolution => tensor.permute((2, 3, 1, 0))?.flatten_all(),
                _ => tensor.flatten_all(),
            }
        };
        let parts: Vec<Tensor> = group.entries.iter().map(part).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0)
    }

    /// An encoder's flat group, then a head's groups of one parameter.
    fn groups(&self, dtype: DType, device: &Device) -> Result<Vec<ParameterGroup>> {
        let flat: &[(&str, &[usize], ParameterKind)] = &[
            ("conv.weight", &[2, 2, 3, 4], ParameterKind::Convolution),
            ("bn.weight", &[4], ParameterKind::NormScale),
            ("bn.bias", &[4], ParameterKind::NormShift),
            ("zero.weight", &[3, 4], ParameterKind::Linear),
        ];
        let mut entries: Vec<ParameterEntry> = Vec::new();
        for &(name, shape, kind) in flat {
            let start = entries.last().map_or(0, |entry| entry.span.end);
            let span = start..start + shape.iter().product::<usize>();
            entries.push(ParameterEntry { name: name.into(), shape: shape.to_vec(), span, kind });
        }
        let length = entries.last().map_or(0, |entry| entry.span.end);
        let var = |shape: &[usize]| Var::zeros(shape, dtype, device);
        let groups = vec![
            ParameterGroup { var: var(&[length])?, entries },
            ParameterGroup::single("fc.weight", ParameterKind::Linear, var(&[5, 3])?),
            ParameterGroup::single("fc.bias", ParameterKind::Bias, var(&[5])?),
        ];
        for group in &groups {
            let start = self.flat("start", group, None)?.to_dtype(dtype)?;
            group.var.set(&start.reshape(group.var.shape())?.to_device(device)?)?;
        }
        Ok(groups)
    }

    fn step(
        &self,
        optimizer: &mut Optimizer,
        groups: &[ParameterGroup],
        step: usize,
    ) -> Result<()> {
        let gradient = |group: &ParameterGroup| {
            let gradient = self.flat("gradients", group, Some(step))?;
            let gradient = gradient.reshape(group.var.shape())?.to_dtype(group.var.dtype())?;
            gradient.to_device(group.var.device())
        };
        let gradients: Vec<Tensor> = groups.iter().map(gradient).collect::<Result<_>>()?;
        optimizer.step(groups, &gradients, self.numbers("rates")?[step])
    }
}

/// The settings of `CASES` in the script.
fn cases() -> Vec<(&'static str, OptimizerConfig)> {
    let config = |kind| OptimizerConfig { weight_decay: 1e-2, ..OptimizerConfig::new(kind) };
    let (sgd, lars) = (config(OptimizerKind::Sgd), config(OptimizerKind::Lars));
    let (adam, adamw) = (config(OptimizerKind::Adam), config(OptimizerKind::AdamW));
    let lars = OptimizerConfig { trust_coefficient: 0.05, ..lars };
    let clipping = LarsClipping::LearningRate;
    vec![
        ("sgd", sgd),
        ("sgd-nesterov", OptimizerConfig { momentum: 0.8, nesterov: true, ..sgd }),
        ("lars", lars),
        ("lars-clipped", OptimizerConfig { trust_coefficient: 0.1, clipping, ..lars }),
        (
            "lars-nesterov",
            OptimizerConfig {
                momentum: 0.8,
                nesterov: true,
                exclude_biases_and_norms: false,
                ..lars
            },
        ),
        ("adam", OptimizerConfig { beta1: 0.8, beta2: 0.99, epsilon: 1e-7, ..adam }),
        ("adamw", adamw),
    ]
}

fn check_close(what: &str, got: &Tensor, expected: &Tensor, atol: f64) -> Result<()> {
    let got = got.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?;
    let largest = (got - expected)?.abs()?.max(0)?.to_scalar::<f64>()?;
    assert!(largest <= atol, "{what}: differs by {largest:e}, allowed {atol:e}");
    Ok(())
}

/// The CPU, and with the feature `cuda` a GPU where there is one.
fn devices() -> Vec<Device> {
    let devices = vec![Device::Cpu];
    #[cfg(feature = "cuda")]
    let devices = match metamask_ops::cuda_device(0) {
        Ok(gpu) => vec![Device::Cpu, gpu],
        Err(error) if std::env::var_os("METAMASK_GPU_EXPECTED").is_some() => panic!("{error}"),
        Err(_) => devices,
    };
    devices
}

#[test]
fn fifty_steps_over_several_groups_equal_the_references() -> Result<()> {
    devices().iter().try_for_each(fifty_steps_equal_the_references)
}

fn fifty_steps_equal_the_references(device: &Device) -> Result<()> {
    let fixture = Fixture::load()?;
    for (name, config) in cases() {
        for (dtype, atol) in [(DType::F64, ATOL_F64), (DType::F32, ATOL_F32)] {
            let groups = fixture.groups(dtype, device)?;
            let mut optimizer = Optimizer::new(&groups, &config)?;
            for step in 0..STEPS {
                fixture.step(&mut optimizer, &groups, step)?;
                if [1, 2, 10, 50].contains(&(step + 1)) {
                    for group in &groups {
                        let prefix = format!("{name}.{}", step + 1);
                        let expected = fixture.flat(&prefix, group, None)?;
                        let what = format!("{prefix} {dtype:?} {}", group.entries[0].name);
                        check_close(&what, group.tensor(), &expected, atol)?;
                    }
                }
            }
            let state = optimizer.state()?;
            let names: Vec<&str> = state.tensors.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names, config.kind.state_names());
            for (buffer, tensors) in &state.tensors {
                for (group, tensor) in groups.iter().zip(tensors) {
                    let prefix = format!("{name}.state.{buffer}");
                    let expected = fixture.flat(&prefix, group, None)?;
                    check_close(&prefix, tensor, &expected, 10.0 * atol)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn going_on_from_a_kept_state_equals_going_on() -> Result<()> {
    let fixture = Fixture::load()?;
    let numbers = |groups: &[ParameterGroup]| {
        let flat = |group: &ParameterGroup| group.tensor().flatten_all()?.to_vec1::<f32>();
        groups.iter().map(flat).collect::<Result<Vec<_>>>()
    };
    for (name, config) in cases() {
        let groups = fixture.groups(DType::F32, &Device::Cpu)?;
        let mut straight = Optimizer::new(&groups, &config)?;
        for step in 0..5 {
            fixture.step(&mut straight, &groups, step)?;
        }
        let state = straight.state()?;
        let kept = groups.iter().map(|group| group.tensor().copy()).collect::<Result<Vec<_>>>()?;
        for step in 5..10 {
            fixture.step(&mut straight, &groups, step)?;
        }
        let expected = numbers(&groups)?;

        for (group, kept) in groups.iter().zip(&kept) {
            group.var.set(kept)?;
        }
        let mut resumed = Optimizer::new(&groups, &config)?;
        resumed.set_state(&state)?;
        for step in 5..10 {
            fixture.step(&mut resumed, &groups, step)?;
        }
        assert_eq!(numbers(&groups)?, expected, "{name}");
    }
    Ok(())
}

#[test]
fn a_state_of_another_optimiser_or_shape_or_type_is_refused() -> Result<()> {
    let fixture = Fixture::load()?;
    let groups = fixture.groups(DType::F32, &Device::Cpu)?;
    let new = |kind| Optimizer::new(&groups, &OptimizerConfig::new(kind));
    let mut sgd = new(OptimizerKind::Sgd)?;
    let error = sgd.set_state(&new(OptimizerKind::Adam)?.state()?).unwrap_err().to_string();
    assert!(error.contains("expected [\"velocity\"], got [\"first_moment\""), "{error}");

    let mut state = sgd.state()?;
    state.tensors[0].1.pop();
    let error = sgd.set_state(&state).unwrap_err().to_string();
    assert!(error.contains("velocity must have the parameters' shapes"), "{error}");

    let groups = fixture.groups(DType::F64, &Device::Cpu)?;
    let other = Optimizer::new(&groups, &OptimizerConfig::new(OptimizerKind::Sgd))?.state()?;
    let error = sgd.set_state(&other).unwrap_err().to_string();
    assert!(error.contains("expected F32, got F64"), "{error}");
    Ok(())
}

#[test]
fn settings_out_of_range_are_refused() -> Result<()> {
    let groups = Fixture::load()?.groups(DType::F32, &Device::Cpu)?;
    let check = |kind, change: &dyn Fn(&mut OptimizerConfig), expected: &str| {
        let mut config = OptimizerConfig::new(kind);
        change(&mut config);
        let error = Optimizer::new(&groups, &config).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(OptimizerKind::Sgd, &|c| c.momentum = 1.0, "sgd: momentum must be at least 0 and");
    check(OptimizerKind::Sgd, &|c| c.weight_decay = f64::NAN, "sgd: weight_decay");
    check(OptimizerKind::Lars, &|c| c.trust_coefficient = 0.0, "trust_coefficient must be above 0");
    check(OptimizerKind::Lars, &|c| (c.nesterov, c.momentum) = (true, 0.0), "Nesterov's momentum");
    check(OptimizerKind::Adam, &|c| c.beta2 = 1.0, "adam: beta2 must be at least 0 and below 1");
    check(OptimizerKind::AdamW, &|c| c.epsilon = -1.0, "adamw: epsilon must be at least 0");
    Ok(())
}

#[test]
fn only_sgd_is_one() -> Result<()> {
    let groups = Fixture::load()?.groups(DType::F32, &Device::Cpu)?;
    for (_, config) in cases() {
        let optimizer = Optimizer::new(&groups, &config)?;
        assert_eq!(optimizer.kind(), config.kind);
        assert_eq!(optimizer.as_sgd().is_some(), config.kind == OptimizerKind::Sgd);
    }
    Ok(())
}

#[test]
fn results_are_bit_identical_for_any_number_of_threads() -> Result<()> {
    // Longer than several chunks of the parallel loops.
    const LENGTH: usize = 100_000;
    let wave = |phase: f64| {
        let values: Vec<f32> = (0..LENGTH).map(|k| (0.7 * k as f64 + phase).sin() as f32).collect();
        Tensor::from_vec(values, LENGTH, &Device::Cpu)
    };
    let run = |config: &OptimizerConfig| {
        let var = Var::from_tensor(&wave(0.0)?)?;
        let groups = [ParameterGroup::single("w", ParameterKind::Linear, var)];
        let mut optimizer = Optimizer::new(&groups, config)?;
        for step in 0..3 {
            optimizer.step(&groups, &[wave(f64::from(step))?], 0.1)?;
        }
        groups[0].tensor().to_vec1::<f32>()
    };
    for (name, config) in cases() {
        let with_threads = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| run(&config))
        };
        let single = with_threads(1)?;
        for n in [2, 3] {
            assert_eq!(with_threads(n)?, single, "{name}, {n} threads");
        }
    }
    Ok(())
}
