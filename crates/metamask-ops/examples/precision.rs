//! Errors of the convolutions in f32 against f64, for each precision.
//!
//! `cargo run --release -p metamask-ops --example precision` prints the table of
//! docs/results/precision.md. `METAMASK_KERNEL` chooses the instruction set.

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{BatchStats, Conv2d, Kernel, Network, Precision};
use metamask_random::{Key, Purpose};

/// Batch, side, channels in and out, kernel, stride.
const SHAPES: [(usize, usize, usize, usize, usize, usize); 8] = [
    (8, 32, 3, 64, 3, 1),
    (8, 32, 64, 64, 3, 1),
    (8, 16, 128, 128, 3, 1),
    (16, 8, 256, 256, 3, 1),
    (64, 4, 512, 512, 3, 1),
    (3, 7, 48, 40, 3, 1),
    (8, 32, 64, 128, 3, 2),
    (8, 32, 64, 128, 1, 2),
];

fn main() -> Result<()> {
    println!(
        "Kernel: {:?}. Root mean square error / largest, of the result's.\n",
        Kernel::current()
    );
    println!("| convolution | precision | forward | gradient, data | gradient, weights |");
    println!("|---|---|---|---|---|");
    for (batch, side, n_in, n_out, kernel, stride) in SHAPES {
        let key = Key::new(0, Purpose::Test);
        let conv = Conv2d { out_channels: n_out, kernel, stride, padding: kernel / 2 };
        let network = |precision| -> Result<Network> {
            let mut b = Network::builder(n_in);
            b.precision(precision);
            let y = b.conv2d("conv", b.input(), conv);
            b.finish(y)
        };
        let x = normal(&[batch, side, side, n_in], key)?;
        let w = normal(&[kernel * kernel * n_in * n_out], key.sample(1))?;
        let out = network(Precision::Exact)?.output_shape(x.dims())?;
        let dy = normal(&out, key.sample(2))?;
        let expected = passes(&network(Precision::Exact)?, DType::F64, [&x, &w, &dy])?;
        for precision in [Precision::Exact, Precision::Fast, Precision::Bf16] {
            let got = passes(&network(precision)?, DType::F32, [&x, &w, &dy])?;
            let errors: Vec<String> = got.iter().zip(&expected).map(|(g, e)| error(g, e)).collect();
            println!(
                "| {kernel}x{kernel}, stride {stride}, {n_in} → {n_out}, {side} px, batch {batch} \
                 | {precision:?} | {} |",
                errors.join(" | ")
            );
        }
    }
    Ok(())
}

/// Value, gradient in x and gradient in w of one convolution.
fn passes(network: &Network, dtype: DType, [x, w, dy]: [&Tensor; 3]) -> Result<[Vec<f64>; 3]> {
    let (x, w) = (Var::from_tensor(&x.to_dtype(dtype)?)?, Var::from_tensor(&w.to_dtype(dtype)?)?);
    let running = Var::zeros(0, dtype, &Device::Cpu)?;
    let y = network.forward(&x, &w, &running, BatchStats::BatchOnly)?;
    let gradients = (&y * dy.to_dtype(dtype)?)?.sum_all()?.backward()?;
    let list = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let of = |var: &Var| list(gradients.get(var).expect("tracked"));
    Ok([list(&y)?, of(&x)?, of(&w)?])
}

fn error(got: &[f64], expected: &[f64]) -> String {
    let mean_square = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, n) = values.fold((0.0, 0), |(sum, n), v| (sum + v * v, n + 1));
        (sum / f64::from(n)).sqrt()
    };
    let scale = mean_square(&mut expected.iter().copied());
    let difference = || got.iter().zip(expected).map(|(g, e)| g - e);
    let largest = difference().fold(0.0, |max: f64, d| max.max(d.abs()));
    format!("{:.1e} / {:.1e}", mean_square(&mut difference()) / scale, largest / scale)
}

/// Standard normal numbers that f32 holds exactly, in f64.
fn normal(shape: &[usize], key: Key) -> Result<Tensor> {
    let mut stream = key.stream();
    let n = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|_| f64::from(stream.normal() as f32)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}
