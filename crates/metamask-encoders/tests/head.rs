//! The head against PyTorch's (`xtask/golden/encoders.py`), and its tangent
//! against central differences.

mod fixture;

use candle_core::{DType, Device, Result, Tensor};
use fixture::Fixture;
use metamask_encoders::{BatchStats, Mlp, MlpConfig};
use metamask_ops::{Dual, ParameterGroup};
use metamask_random::{Key, Purpose};

const KEY: Key = Key::new(0, Purpose::Initialisation);

fn head(dtype: DType) -> Result<Mlp> {
    let config = MlpConfig { input: 5, hidden: vec![7, 6], output: 4, final_norm: true };
    Mlp::new("head", &config, KEY, dtype, &Device::Cpu)
}

fn tensors(groups: &[ParameterGroup]) -> Vec<Tensor> {
    groups.iter().map(|group| group.tensor().clone()).collect()
}

fn forward(head: &Mlp, x: &Tensor, stats: BatchStats) -> Result<Tensor> {
    head.forward(x, &tensors(head.parameters()), stats)
}

#[test]
fn head_equals_pytorch_s() -> Result<()> {
    let fixture = Fixture::load("head")?;
    let head = head(DType::F64)?;
    fixture.put("parameter", head.parameters())?;
    fixture.put("running", head.running_statistics())?;
    let x = candle_core::Var::from_tensor(fixture.get("input"))?;

    let evaluation = forward(&head, &x, BatchStats::Running)?;
    fixture.check("evaluation", &evaluation)?;

    let batch = forward(&head, &x, BatchStats::BatchOnly)?;
    fixture.check("batch", &batch)?;
    fixture
        .check_groups("running", head.running_statistics(), |group| Ok(group.tensor().clone()))?;

    let gradients = (batch * fixture.get("cotangent"))?.sum_all()?.backward()?;
    let gradient = |group: &ParameterGroup| Ok(gradients.get(group.tensor()).unwrap().clone());
    fixture.check_groups("gradient", head.parameters(), gradient)?;
    fixture.check("gradient_input", gradients.get(&x).unwrap())?;

    let theta: Vec<Dual> = head
        .parameters()
        .iter()
        .map(|group| Ok(Dual::new(group.tensor().clone(), gradient(group)?)))
        .collect::<Result<_>>()?;
    let dual = head.forward(&Dual::from(x.as_tensor().clone()), &theta, BatchStats::BatchOnly)?;
    fixture.check("tangent", &dual.tangent_or_zeros()?)?;

    forward(&head, &x, BatchStats::BatchAndUpdate)?;
    fixture.check_groups("updated", head.running_statistics(), |group| Ok(group.tensor().clone()))
}

#[test]
fn tangent_equals_central_differences() -> Result<()> {
    let head = head(DType::F64)?;
    let mut stream = Key::new(1, Purpose::Test).stream();
    let mut normal = |like: &Tensor| {
        let values: Vec<f64> = (0..like.elem_count()).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, like.shape(), &Device::Cpu)
    };
    let h = normal(&Tensor::zeros((12, 5), DType::F64, &Device::Cpu)?)?;
    let point: Vec<Tensor> = [vec![h], tensors(head.parameters())].concat();
    let direction: Vec<Tensor> = point.iter().map(&mut normal).collect::<Result<_>>()?;

    for stats in [BatchStats::BatchOnly, BatchStats::Running] {
        let duals: Vec<Dual> = point
            .iter()
            .zip(&direction)
            .map(|(value, tangent)| Dual::new(value.clone(), tangent.clone()))
            .collect();
        let tangent = head.forward(&duals[0], &duals[1..], stats)?.tangent_or_zeros()?;

        // Far below the distance to a ReLU's kink, where differences are wrong.
        const STEP: f64 = 1e-6;
        let at = |step: f64| {
            let moved: Vec<Tensor> = point
                .iter()
                .zip(&direction)
                .map(|(value, tangent)| value + (tangent * step)?)
                .collect::<Result<_>>()?;
            head.forward(&moved[0], &moved[1..], stats)
        };
        let differences = ((at(STEP)? - at(-STEP)?)? / (2.0 * STEP))?;
        // Rounding 1e-16 over the step, and the third derivative times its square.
        fixture::check_close(&format!("{stats:?}"), &tangent, &differences, 1e-7)?;
    }
    Ok(())
}

#[test]
fn meta_passes_leave_the_running_statistics_alone() -> Result<()> {
    let head = head(DType::F32)?;
    let h = Tensor::arange(0f32, 40.0, &Device::Cpu)?.reshape((8, 5))?;
    let running = || {
        let flat: Result<Vec<_>> =
            tensors(head.running_statistics()).iter().map(Tensor::to_vec1::<f32>).collect();
        flat
    };
    let before = running()?;
    forward(&head, &h, BatchStats::BatchOnly)?;
    forward(&head, &h, BatchStats::Running)?;
    assert_eq!(running()?, before);
    forward(&head, &h, BatchStats::BatchAndUpdate)?;
    assert_ne!(running()?, before);
    Ok(())
}

#[test]
fn names_and_shapes_are_an_nn_sequential_s() -> Result<()> {
    let head = Mlp::new(
        "contrastive_head",
        &MlpConfig::contrastive_head(512),
        KEY,
        DType::F32,
        &Device::Cpu,
    )?;
    let entries: Vec<String> = head
        .parameters()
        .iter()
        .chain(head.running_statistics())
        .map(|group| format!("{} {:?}", group.entries[0].name, group.var.dims()))
        .collect();
    let expected = [
        "0.weight [2048, 512]",
        "0.bias [2048]",
        "1.weight [2048]",
        "1.bias [2048]",
        "3.weight [256, 2048]",
        "3.bias [256]",
        "4.weight [256]",
        "4.bias [256]",
        "1.running_mean [2048]",
        "1.running_var [2048]",
        "4.running_mean [256]",
        "4.running_var [256]",
    ];
    assert_eq!(entries, expected.map(|entry| format!("contrastive_head.{entry}")));
    Ok(())
}

#[test]
fn without_a_final_norm_the_last_layer_is_linear() -> Result<()> {
    let config = MlpConfig { input: 3, hidden: vec![], output: 2, final_norm: false };
    let head = Mlp::new("fc", &config, KEY, DType::F64, &Device::Cpu)?;
    assert!(head.running_statistics().is_empty());
    let x = Tensor::new(&[[1.0f64, -2.0, 0.5]], &Device::Cpu)?;
    let [weight, bias] = &tensors(head.parameters())[..] else { panic!("one linear layer") };
    let expected = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
    let got = forward(&head, &x, BatchStats::BatchOnly)?;
    assert_eq!(got.to_vec2::<f64>()?, expected.to_vec2::<f64>()?);
    Ok(())
}

#[test]
fn bad_input_is_refused() -> Result<()> {
    let config = MlpConfig { input: 3, hidden: vec![0], output: 2, final_norm: false };
    assert!(Mlp::new("head", &config, KEY, DType::F32, &Device::Cpu).is_err());

    let head = head(DType::F32)?;
    let one = Tensor::ones((1, 5), DType::F32, &Device::Cpu)?;
    let error = forward(&head, &one, BatchStats::BatchOnly).unwrap_err().to_string();
    assert!(error.contains("from 2 rows on, got 1"), "{error}");
    forward(&head, &one, BatchStats::Running)?;

    let theta = tensors(head.parameters());
    assert!(head.forward(&one, &theta[1..], BatchStats::Running).is_err());
    Ok(())
}
