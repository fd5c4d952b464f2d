//! Backbones against PyTorch's (`xtask/golden/encoders.py`).

mod fixture;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use fixture::Fixture;
use metamask_encoders::{
    BatchStats, ConvNet, ConvNetConfig, Encoder, EncoderConfig, FullyConnected,
    FullyConnectedConfig, ResNet, ResNetConfig, Stem,
};
use metamask_ops::ParameterGroup;
use metamask_random::{Key, Purpose};

const KEY: Key = Key::new(0, Purpose::Initialisation);

/// What an encoder has beside the trait.
trait Backbone: Encoder + Module {
    fn nchw(&self, images: &Tensor, stats: BatchStats) -> Result<Tensor>;
}

macro_rules! backbones {
    ($($encoder:ty)+) => {
        $(impl Backbone for $encoder {
            fn nchw(&self, images: &Tensor, stats: BatchStats) -> Result<Tensor> {
                self.forward_nchw(images, stats)
            }
        })+
    };
}

backbones!(ResNet ConvNet FullyConnected);

fn check_equals_pytorch(name: &str, encoder: Result<impl Backbone>) -> Result<()> {
    let (fixture, encoder) = (Fixture::load(name)?, encoder?);
    fixture.put("parameter", encoder.parameters())?;
    fixture.put("running", encoder.running_statistics())?;
    let images = Var::from_tensor(fixture.get("input"))?;
    let views = images.permute((0, 2, 3, 1))?.contiguous()?; // [B, H, W, C]
    let theta = [encoder.parameters()[0].tensor().clone()];
    let tensor = |group: &ParameterGroup| Ok(group.tensor().clone());

    fixture.check("evaluation", &Module::forward(&encoder, &views)?)?;
    fixture.check("evaluation", &encoder.nchw(&images, BatchStats::Running)?)?;
    assert_eq!(fixture.get("evaluation").dim(1)?, encoder.feature_dim());

    let linearized = encoder.linearize(&views, &theta, BatchStats::BatchOnly)?;
    fixture.check("batch", &linearized.value)?;
    fixture.check_groups("running", encoder.running_statistics(), tensor)?;

    let product = (&linearized.value * fixture.get("cotangent"))?.sum_all()?;
    let gradients = product.backward()?;
    let gradient = gradients.get(&theta[0]).expect("the parameters are variables");
    fixture.check_groups("gradient", encoder.parameters(), |_| Ok(gradient.clone()))?;
    fixture.check("gradient_input", gradients.get(&images).expect("so are the images"))?;
    fixture.check("tangent", &linearized.tangent(std::slice::from_ref(gradient))?)?;

    let batch = encoder.nchw(&images, BatchStats::BatchAndUpdate)?;
    fixture.check("batch", &batch)?;
    fixture.check_groups("updated", encoder.running_statistics(), tensor)
}

fn resnet(config: &ResNetConfig) -> Result<ResNet> {
    ResNet::new(config, KEY, DType::F64, &Device::Cpu)
}

#[test]
fn resnet18_with_cifar_stem_equals_pytorch_s() -> Result<()> {
    let config = ResNetConfig { width: 4, ..Default::default() };
    check_equals_pytorch("resnet18_cifar", resnet(&config))
}

#[test]
fn resnet18_with_pool_and_without_stem_relu_equals_pytorch_s() -> Result<()> {
    let config = ResNetConfig {
        depth: 18,
        stem: Stem::CifarWithPool,
        width: 1,
        stem_relu: false,
        ..Default::default()
    };
    check_equals_pytorch("resnet18_cifar-with-pool", resnet(&config))
}

#[test]
fn resnet50_with_imagenet_stem_equals_pytorch_s() -> Result<()> {
    let config = ResNetConfig {
        depth: 50,
        stem: Stem::ImageNet,
        width: 1,
        stem_relu: true,
        ..Default::default()
    };
    check_equals_pytorch("resnet50_imagenet", resnet(&config))
}

#[test]
fn conv_equals_pytorch_s() -> Result<()> {
    let config = ConvNetConfig { width: 3, ..Default::default() };
    check_equals_pytorch("conv", ConvNet::new(&config, KEY, DType::F64, &Device::Cpu))
}

#[test]
fn fc_equals_pytorch_s() -> Result<()> {
    let config = FullyConnectedConfig { image_size: 5, widths: vec![8, 7, 6] };
    check_equals_pytorch("fc", FullyConnected::new(&config, KEY, DType::F64, &Device::Cpu))
}

#[test]
fn conv_and_fc_are_as_large_as_their_tables_say() -> Result<()> {
    let build = |config: EncoderConfig| config.build(KEY, DType::F32, &Device::Cpu);
    // 9 weights for each pair of channels, a scale and a shift for each channel.
    let conv = build(EncoderConfig::Conv(ConvNetConfig::default()))?;
    let weights = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512);
    assert_eq!(conv.parameter_count(), weights + 2 * (64 + 128 + 256 + 512));
    assert_eq!(conv.feature_dim(), 512);

    for image_size in [28, 32, 64] {
        let config = FullyConnectedConfig { image_size, ..Default::default() };
        let fc = build(EncoderConfig::Fc(config))?;
        let weights = 3 * image_size * image_size * 1024 + 1024 * 1024 + 1024 * 512;
        assert_eq!(fc.parameter_count(), weights + 2 * (1024 + 1024 + 512));
        assert_eq!(fc.feature_dim(), 512);

        // The first layer sees every pixel, the others a quarter, a sixteenth, a 64th.
        let conv = ConvNet::new(&ConvNetConfig::default(), KEY, DType::F32, &Device::Cpu)?;
        let side = |n: usize, halvings: u32| (0..halvings).fold(n, |n, _| n.div_ceil(2)).pow(2);
        let expected: usize = [3 * 64, 64 * 128, 128 * 256, 256 * 512]
            .iter()
            .zip(0..)
            .map(|(pairs, halvings)| 9 * pairs * side(image_size, halvings))
            .sum();
        let views = [2, image_size, image_size, 3];
        assert_eq!(conv.multiply_adds(&views)?, 2 * expected as u64);
    }
    Ok(())
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

#[test]
fn settings_out_of_range_and_images_of_another_size_are_refused() -> Result<()> {
    let build = |config: EncoderConfig| config.build(KEY, DType::F32, &Device::Cpu);
    assert!(build(EncoderConfig::Conv(ConvNetConfig { width: 0, ..Default::default() })).is_err());
    for (image_size, widths) in [(0, vec![4]), (8, vec![]), (8, vec![4, 0])] {
        assert!(build(EncoderConfig::Fc(FullyConnectedConfig { image_size, widths })).is_err());
    }
    let fc = build(EncoderConfig::Fc(FullyConnectedConfig { image_size: 8, widths: vec![4] }))?;
    let views = Tensor::zeros((2, 9, 9, 3), DType::F32, &Device::Cpu)?;
    let theta = [fc.parameters()[0].tensor().clone()];
    assert!(fc.forward(&views, &theta, BatchStats::Running).is_err());
    Ok(())
}
