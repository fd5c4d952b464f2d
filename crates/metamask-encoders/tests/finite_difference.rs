//! The tangent by finite differences against exact ones.

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{
    BatchStats, ConvNet, ConvNetConfig, Encoder, FiniteDifferenceTangent, GraphEncoder,
};
use metamask_ops::{Conv2d, Linearized, Network, ParameterGroup};
use metamask_random::{Key, Purpose};

/// No ReLU and no maximum, so that every derivative exists.
fn smooth(dtype: DType) -> Result<GraphEncoder> {
    let mut b = Network::builder(3);
    let conv = |out_channels| Conv2d { out_channels, kernel: 3, stride: 1, padding: 1 };
    let x = b.conv2d("conv1", b.input(), conv(5));
    let x = b.batch_norm("bn1", x);
    let x = b.conv2d("conv2", x, conv(6));
    let x = b.batch_norm("bn2", x);
    let x = b.global_avg_pool(x);
    let x = b.linear("fc", x, 4, true);
    GraphEncoder::new(b.finish(x)?, Key::new(0, Purpose::Initialisation), dtype, &Device::Cpu)
}

fn normal(shape: &[usize], sample: u32) -> Result<Tensor> {
    let mut stream = Key::new(3, Purpose::Test).sample(sample).stream();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_vec1()
}

fn relative_error(got: &Tensor, exact: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    Ok(norm(&(got - exact)?)? / norm(exact)?)
}

#[test]
fn on_a_smooth_network_the_error_falls_with_the_square_of_the_radius() -> Result<()> {
    let views = normal(&[6, 7, 6, 3], 1)?;
    for stats in [BatchStats::BatchOnly, BatchStats::Running] {
        let encoder = smooth(DType::F64)?;
        let theta = [encoder.parameters()[0].tensor().clone()];
        let direction = [normal(theta[0].dims(), 2)?];
        let exact = encoder.linearize(&views, &theta, stats)?.tangent(&direction)?;
        let error = |radius: f64| {
            let wrapped = FiniteDifferenceTangent::with_radius(smooth(DType::F64)?, radius)?;
            let theta = [wrapped.parameters()[0].tensor().clone()];
            let linearized = wrapped.linearize(&views, &theta, stats)?;
            relative_error(&linearized.tangent(&direction)?, &exact)
        };
        let (coarse, fine) = (error(1e-1)?, error(1e-2)?);
        assert!((80.0..120.0).contains(&(coarse / fine)), "{stats:?}: {coarse:e} {fine:e}");
        // Here the square of the radius and rounding over it are both below 1e-8.
        let finest = error(1e-5)?;
        assert!(finest < 1e-8, "{stats:?}: {finest:e}");
    }
    Ok(())
}

#[test]
fn the_radius_is_a_distance_whatever_the_length_of_the_direction() -> Result<()> {
    let wrapped = FiniteDifferenceTangent::new(smooth(DType::F64)?);
    let views = normal(&[4, 5, 5, 3], 1)?;
    let theta = [wrapped.parameters()[0].tensor().clone()];
    let linearized = wrapped.linearize(&views, &theta, BatchStats::BatchOnly)?;
    let direction = normal(theta[0].dims(), 2)?;
    let tangent = |scale: f64| linearized.tangent(&[(&direction * scale)?]);
    let unit = tangent(1.0)?;
    for scale in [1e-6, 1e6] {
        let error = relative_error(&(tangent(scale)? / scale)?, &unit)?;
        assert!(error < 1e-9, "{scale:e}: {error:e}"); // rounding of θ ± s v over the radius
    }
    let zero = linearized.tangent(&[direction.zeros_like()?])?;
    assert!(numbers(&zero)?.iter().all(|&x| x == 0.0));
    Ok(())
}

#[test]
fn a_tangent_leaves_no_trace_and_the_value_is_the_encoder_s() -> Result<()> {
    let config = ConvNetConfig { width: 2, ..Default::default() };
    let key = Key::new(0, Purpose::Initialisation);
    let new = || ConvNet::new(&config, key, DType::F64, &Device::Cpu);
    let (plain, wrapped) = (new()?, FiniteDifferenceTangent::new(new()?));
    let views = normal(&[4, 8, 8, 3], 1)?;
    let everything = |encoder: &dyn Encoder| {
        let groups = encoder.parameters().iter().chain(encoder.running_statistics());
        groups.map(|group| numbers(group.tensor())).collect::<Result<Vec<_>>>()
    };
    let theta = |encoder: &dyn Encoder| [encoder.parameters()[0].tensor().clone()];

    let expected = Encoder::forward(&plain, &views, &theta(&plain), BatchStats::BatchAndUpdate)?;
    let linearized = wrapped.linearize(&views, &theta(&wrapped), BatchStats::BatchAndUpdate)?;
    assert_eq!(numbers(&linearized.value)?, numbers(&expected)?);
    linearized.tangent(&[normal(theta(&wrapped)[0].dims(), 2)?])?;
    // The pass moved the running statistics once, its tangent did not.
    assert_eq!(everything(&wrapped)?, everything(&plain)?);

    let gradient = |value: &Tensor, encoder: &dyn Encoder| {
        let gradients = value.sqr()?.sum_all()?.backward()?;
        numbers(gradients.get(&theta(encoder)[0]).expect("the value is joined to autograd"))
    };
    assert_eq!(gradient(&linearized.value, &wrapped)?, gradient(&expected, &plain)?);
    Ok(())
}

#[test]
fn directions_of_other_shapes_or_not_finite_are_refused() -> Result<()> {
    let wrapped = FiniteDifferenceTangent::new(smooth(DType::F64)?);
    let views = normal(&[4, 5, 5, 3], 1)?;
    let theta = [wrapped.parameters()[0].tensor().clone()];
    let linearized = wrapped.linearize(&views, &theta, BatchStats::BatchOnly)?;
    assert!(linearized.tangent(&[]).is_err());
    let infinite = (theta[0].zeros_like()?.detach() + f64::INFINITY)?;
    assert!(linearized.tangent(&[infinite]).is_err());
    for radius in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(FiniteDifferenceTangent::with_radius(smooth(DType::F64)?, radius).is_err());
    }
    Ok(())
}

/// Brings no tangent.
struct Plain(GraphEncoder);

impl Encoder for Plain {
    fn feature_dim(&self) -> usize {
        self.0.feature_dim()
    }

    fn parameters(&self) -> &[ParameterGroup] {
        self.0.parameters()
    }

    fn running_statistics(&self) -> &[ParameterGroup] {
        self.0.running_statistics()
    }

    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        Encoder::forward(&self.0, views, theta, stats)
    }
}

#[test]
fn without_a_tangent_linearize_is_an_error_that_names_the_ways_out() -> Result<()> {
    let views = normal(&[4, 5, 5, 3], 1)?;
    let linearize = |encoder: &dyn Encoder| -> Result<Linearized> {
        let theta = [encoder.parameters()[0].tensor().clone()];
        encoder.linearize(&views, &theta, BatchStats::BatchOnly)
    };
    let plain: Box<dyn Encoder> = Box::new(Plain(smooth(DType::F64)?));
    let error = linearize(&plain).err().expect("it has none").to_string();
    assert!(error.contains("brings no tangent"), "{error}");
    assert!(error.contains("`FiniteDifferenceTangent`"), "{error}");
    assert!(error.contains("finite-difference or first-order"), "{error}");
    // A boxed encoder is one, too.
    linearize(&FiniteDifferenceTangent::new(plain))?;
    Ok(())
}
