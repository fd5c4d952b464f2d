//! Each kernel by itself, in the layers of a ResNet-18 (CIFAR stem, 32 px, batch 64),
//! on two threads. Gitem/s of products are GFLOP/s, of everything else 10⁹ values/s.
//!
//! ```text
//! cargo bench -p metamask-ops --bench kernels              # all of them
//! cargo bench -p metamask-ops --bench kernels -- conv2d    # some
//! ```

use std::fmt;

use candle_core::{DType, Device, Result, Tensor, Var};
use divan::{Bencher, counter::ItemsCount};
use metamask_ops::{
    BatchStats, Conv2d, Network, NetworkBuilder, Node, Pool, Precision, l2_normalize, log_sum_exp,
    standardize,
};
use metamask_random::{Key, Purpose};

const BATCH: usize = 64;

fn main() {
    metamask_ops::keep_freed_memory();
    metamask_ops::keep_candle_on_one_thread();
    metamask_ops::set_threads(2).expect("nothing has run yet");
    divan::main();
}

/// A convolution of the network.
#[derive(Clone, Copy)]
struct Layer {
    precision: Precision,
    side: usize,
    n_in: usize,
    conv: Conv2d,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { precision, side, n_in, conv: Conv2d { out_channels, kernel, stride, .. } } =
            self;
        let precision = format!("{precision:?}").to_lowercase();
        write!(f, "{kernel}x{kernel}/{stride} {n_in}-{out_channels} {side}px {precision}")
    }
}

fn layers() -> Vec<Layer> {
    let layer = |precision, (side, n_in, out_channels, kernel, stride)| Layer {
        precision,
        side,
        n_in,
        conv: Conv2d { out_channels, kernel, stride, padding: kernel / 2 },
    };
    let winograd =
        [(32, 64, 64, 3, 1), (16, 128, 128, 3, 1), (8, 256, 256, 3, 1), (4, 512, 512, 3, 1)];
    let direct = [(32, 3, 64, 3, 1), (32, 64, 128, 3, 2), (8, 256, 512, 3, 2), (32, 64, 128, 1, 2)];
    let precisions = [Precision::Exact, Precision::Fast, Precision::Bf16];
    let all = winograd.into_iter().flat_map(|l| precisions.map(|precision| layer(precision, l)));
    all.chain(direct.map(|l| layer(Precision::Exact, l))).collect()
}

/// A network of one layer with its parameters and an input.
struct One {
    network: Network,
    x: Var,
    theta: Var,
    running: Var,
    multiply_adds: u64,
    values: usize,
}

impl One {
    fn new(
        (side, channels): (usize, usize),
        build: impl FnOnce(&mut NetworkBuilder) -> Node,
    ) -> Result<Self> {
        let mut b = Network::builder(channels);
        let y = build(&mut b);
        let network = b.finish(y)?;
        let shape = [BATCH, side, side, channels];
        let x = Var::from_tensor(&normal(&shape)?)?;
        let theta = Var::from_tensor(&normal(&[network.parameter_count()])?)?;
        let running = network.running_statistics().last().map_or(0, |entry| entry.span.end);
        let running = Var::ones(running, DType::F32, &Device::Cpu)?;
        let multiply_adds = network.multiply_adds(&shape)?;
        Ok(Self { network, x, theta, running, multiply_adds, values: x_len(&shape) })
    }

    fn of(layer: &Layer) -> Self {
        let build = |b: &mut NetworkBuilder| {
            b.precision(layer.precision);
            b.conv2d("conv", b.input(), layer.conv)
        };
        Self::new((layer.side, layer.n_in), build).expect("a layer of the network")
    }

    fn forward(&self) -> Tensor {
        let (x, theta) = (self.x.as_tensor(), self.theta.as_tensor());
        let stats = BatchStats::BatchOnly;
        self.network.forward(x, theta, &self.running, stats).expect("shapes fit")
    }

    /// Forward once outside, then the gradients in input and parameters.
    fn bench_backward(&self, bencher: Bencher<'_, '_>) {
        let y = self.forward();
        let sum = y.sum_all().expect("a sum");
        bencher.bench_local(|| sum.backward().expect("a gradient"));
    }
}

fn x_len(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn normal(shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).stream();
    let values: Vec<f32> = (0..x_len(shape)).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

#[divan::bench(args = layers())]
fn conv2d_forward(bencher: Bencher<'_, '_>, layer: &Layer) {
    let one = One::of(layer);
    bencher.counter(ItemsCount::new(2 * one.multiply_adds)).bench_local(|| one.forward());
}

/// The gradients in the data and in the weights together.
#[divan::bench(args = layers())]
fn conv2d_backward(bencher: Bencher<'_, '_>, layer: &Layer) {
    let one = One::of(layer);
    one.bench_backward(bencher.counter(ItemsCount::new(4 * one.multiply_adds)));
}

/// Side and channels of the activations of the four stages.
const STAGES: [(usize, usize); 4] = [(32, 64), (16, 128), (8, 256), (4, 512)];

fn norm(&(side, channels): &(usize, usize)) -> One {
    One::new((side, channels), |b| {
        let y = b.batch_norm("bn", b.input());
        b.relu(y)
    })
    .expect("a layer of the network")
}

fn name_of_stages() -> impl IntoIterator<Item = Stage> {
    STAGES.map(Stage)
}

/// A stage with a name.
#[derive(Clone, Copy)]
struct Stage((usize, usize));

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}px x {}", self.0.0, self.0.1)
    }
}

#[divan::bench(args = name_of_stages())]
fn batch_norm_relu_forward(bencher: Bencher<'_, '_>, stage: &Stage) {
    let one = norm(&stage.0);
    bencher.counter(ItemsCount::new(one.values)).bench_local(|| one.forward());
}

#[divan::bench(args = name_of_stages())]
fn batch_norm_relu_backward(bencher: Bencher<'_, '_>, stage: &Stage) {
    let one = norm(&stage.0);
    one.bench_backward(bencher.counter(ItemsCount::new(one.values)));
}

fn pool(max: bool) -> One {
    let pool = Pool { kernel: 3, stride: 2, padding: 1 };
    One::new((32, 64), |b| match max {
        true => b.max_pool2d(b.input(), pool),
        false => b.avg_pool2d(b.input(), pool),
    })
    .expect("a layer")
}

#[divan::bench(args = ["max", "average"])]
fn pool2d_forward(bencher: Bencher<'_, '_>, kind: &str) {
    let one = pool(kind == "max");
    bencher.counter(ItemsCount::new(one.values)).bench_local(|| one.forward());
}

#[divan::bench(args = ["max", "average"])]
fn pool2d_backward(bencher: Bencher<'_, '_>, kind: &str) {
    let one = pool(kind == "max");
    one.bench_backward(bencher.counter(ItemsCount::new(one.values)));
}

/// Rows of the expressions over `[batch, dim]`.
const ROWS: [usize; 2] = [2 * BATCH, 2048];

type Expression = fn(&Tensor) -> Result<Tensor>;

fn rows(bencher: Bencher<'_, '_>, dim: usize, expression: Expression) {
    let x = Var::from_tensor(&normal(&[2 * BATCH, dim]).expect("numbers")).expect("a variable");
    let both = || expression(&x)?.sum_all()?.backward();
    bencher.counter(ItemsCount::new(2 * BATCH * dim)).bench_local(|| both().expect("a gradient"));
}

#[divan::bench(args = ROWS)]
fn l2_normalize_and_gradient(bencher: Bencher<'_, '_>, dim: usize) {
    rows(bencher, dim, l2_normalize);
}

#[divan::bench(args = ROWS)]
fn log_sum_exp_and_gradient(bencher: Bencher<'_, '_>, dim: usize) {
    rows(bencher, dim, |x| log_sum_exp(x, 1));
}

#[divan::bench(args = ROWS)]
fn standardize_and_gradient(bencher: Bencher<'_, '_>, dim: usize) {
    rows(bencher, dim, standardize);
}
