//! Residual networks against PyTorch's (`xtask/golden/encoders.py`).

mod fixture;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use fixture::Fixture;
use metamask_encoders::{BatchStats, Encoder, ResNet, ResNetConfig, Stem};
use metamask_ops::ParameterGroup;
use metamask_random::{Key, Purpose};

const KEY: Key = Key::new(0, Purpose::Initialisation);

fn check_equals_pytorch(name: &str, config: &ResNetConfig) -> Result<()> {
    let fixture = Fixture::load(name)?;
    let encoder = ResNet::new(config, KEY, DType::F64, &Device::Cpu)?;
    fixture.put("parameter", encoder.parameters())?;
    fixture.put("running", encoder.running_statistics())?;
    let images = Var::from_tensor(fixture.get("input"))?;
    let views = images.permute((0, 2, 3, 1))?.contiguous()?; // [B, H, W, C]
    let theta = [encoder.parameters()[0].tensor().clone()];
    let tensor = |group: &ParameterGroup| Ok(group.tensor().clone());

    fixture.check("evaluation", &Module::forward(&encoder, &views)?)?;
    fixture.check("evaluation", &encoder.forward_nchw(&images, BatchStats::Running)?)?;

    let linearized = encoder.linearize(&views, &theta, BatchStats::BatchOnly)?;
    fixture.check("batch", &linearized.value)?;
    fixture.check_groups("running", encoder.running_statistics(), tensor)?;

    let product = (&linearized.value * fixture.get("cotangent"))?.sum_all()?;
    let gradients = product.backward()?;
    let gradient = gradients.get(&theta[0]).expect("the parameters are variables");
    fixture.check_groups("gradient", encoder.parameters(), |_| Ok(gradient.clone()))?;
    fixture.check("gradient_input", gradients.get(&images).expect("so are the images"))?;
    fixture.check("tangent", &linearized.tangent(std::slice::from_ref(gradient))?)?;

    let batch = encoder.forward_nchw(&images, BatchStats::BatchAndUpdate)?;
    fixture.check("batch", &batch)?;
    fixture.check_groups("updated", encoder.running_statistics(), tensor)
}

#[test]
fn resnet18_with_cifar_stem_equals_pytorch_s() -> Result<()> {
    check_equals_pytorch("resnet18_cifar", &ResNetConfig { width: 4, ..Default::default() })
}

#[test]
fn resnet18_with_pool_and_without_stem_relu_equals_pytorch_s() -> Result<()> {
    check_equals_pytorch(
        "resnet18_cifar-with-pool",
        &ResNetConfig { depth: 18, stem: Stem::CifarWithPool, width: 1, stem_relu: false },
    )
}

#[test]
fn resnet50_with_imagenet_stem_equals_pytorch_s() -> Result<()> {
    check_equals_pytorch(
        "resnet50_imagenet",
        &ResNetConfig { depth: 50, stem: Stem::ImageNet, width: 1, stem_relu: true },
    )
}

#[test]
fn f32_features_are_near_the_f64_ones() -> Result<()> {
    let config = ResNetConfig { width: 16, ..Default::default() };
    let mut stream = Key::new(1, Purpose::Test).stream();
    let views: Vec<f64> = (0..4 * 16 * 16 * 3).map(|_| stream.normal()).collect();
    let views = Tensor::from_vec(views, (4, 16, 16, 3), &Device::Cpu)?;
    let features = |dtype: DType| {
        let encoder = ResNet::new(&config, KEY, dtype, &Device::Cpu)?;
        let theta = [encoder.parameters()[0].tensor().detach()];
        let views = views.to_dtype(dtype)?;
        Encoder::forward(&encoder, &views, &theta, BatchStats::BatchOnly)?.to_dtype(DType::F64)
    };
    // 20 layers of sums over up to 1152 products, each rounded to 6e-8.
    fixture::check_close("features", &features(DType::F32)?, &features(DType::F64)?, 1e-4)
}

#[test]
fn images_in_the_wrong_layout_and_parameters_in_parts_are_refused() -> Result<()> {
    let config = ResNetConfig { width: 2, ..Default::default() };
    let encoder = ResNet::new(&config, KEY, DType::F32, &Device::Cpu)?;
    let nchw = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
    assert!(Module::forward(&encoder, &nchw).is_err());
    let nhwc = Tensor::zeros((2, 8, 8, 3), DType::F32, &Device::Cpu)?;
    assert!(encoder.forward_nchw(&nhwc, BatchStats::Running).is_err());
    assert!(Encoder::forward(&encoder, &nhwc, &[], BatchStats::Running).is_err());
    Ok(())
}
