//! The objectives and their derivatives against PyTorch's autograd
//! (`xtask/golden/objectives.py`).

mod every_objective;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Result, Tensor, Var};
use every_objective::{OBJECTIVES, Settings};
use metamask_ops::Dual;

/// Relative to the largest element: two orders of summing some dozens of f64
/// terms, and PyTorch's exponentials are those of logits up to 40.
const TOLERANCE: f64 = 1e-10;

#[test]
fn values_gradients_tangents_and_second_derivatives_equal_pytorch_s() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objectives.safetensors");
    let fixture: BTreeMap<_, _> =
        candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
    let get = |name: String| fixture.get(&name).unwrap_or_else(|| panic!("no `{name}`"));

    for case in ["odd", "three", "cold"] {
        let [lambda, tau, tau_plus, beta] = get(format!("{case}.settings")).to_vec1::<f64>()?[..]
        else {
            panic!("4 settings")
        };
        let settings = Settings { lambda, tau, tau_plus, beta };
        let pair = |what: &str| ["a", "b"].map(|view| get(format!("{case}.{what}_{view}")));
        let (views, others, directions) = (pair("view"), pair("other"), pair("direction"));

        for (name, objective) in OBJECTIVES {
            let vars = [Var::from_tensor(views[0])?, Var::from_tensor(views[1])?];
            let [a, b] =
                [0, 1].map(|i| Dual::new(vars[i].as_tensor().clone(), directions[i].clone()));
            let dual = objective(&a, &b, others, settings)?;
            let tangent = dual.tangent_or_zeros()?;

            let check = |what: &str, got: &Tensor| {
                let name = format!("{case}.{name}.{what}");
                check_close(&name, got, get(name.clone()))
            };
            check("value", &dual.value)?;
            check("tangent", &tangent)?;
            let (first, second) = (dual.value.backward()?, tangent.backward()?);
            for (var, view) in vars.iter().zip(["a", "b"]) {
                check(&format!("gradient_{view}"), first.get(var).expect("a variable"))?;
                check(&format!("second_{view}"), second.get(var).expect("a variable"))?;
            }
        }
    }
    Ok(())
}

fn check_close(name: &str, got: &Tensor, expected: &Tensor) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{name}");
    let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    let (error, size) = (largest(&(got - expected)?)?, largest(expected)?);
    // A NaN must fail, too.
    assert!(error <= TOLERANCE * size, "{name}: differs by {error:e}, largest {size:e}");
    Ok(())
}
