//! The files that PyTorch wrote, and ours held against them.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use metamask_train::checkpoint::NamedTensors;

/// The tensors of one file.
pub(crate) struct Fixture(BTreeMap<String, Tensor>);

impl Fixture {
    pub(crate) fn read(name: &str) -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors")))
            .with_context(|| format!("failed to read fixture `{name}`"))?;
        let file = safetensors::SafeTensors::deserialize(&bytes)?;
        let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            let dtype = DType::try_from(view.dtype())?;
            let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
            Ok((name.to_owned(), tensor))
        };
        Ok(Self(file.iter().map(tensor).collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.find(name).with_context(|| format!("the fixture has no `{name}`"))
    }

    pub(crate) fn number(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.get(name)?.to_dtype(DType::F64)?.to_scalar()?)
    }

    /// The tensors below a prefix, by the rest of their names.
    pub(crate) fn below(&self, prefix: &str) -> NamedTensors {
        let entries = self.0.iter();
        let rest = |(name, x): (&String, &Tensor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), x.clone()))
        };
        entries.filter_map(rest).collect()
    }
}

/// Collects what differs, so that a failure shows all of it.
pub(crate) struct Comparison {
    pub(crate) cell: String,
    pub(crate) tolerance: f64,
    pub(crate) worst: f64,
    pub(crate) failures: Vec<String>,
}

impl Comparison {
    pub(crate) fn close(
        &mut self,
        what: &str,
        ours: &Tensor,
        theirs: &Tensor,
    ) -> anyhow::Result<()> {
        self.within(what, ours, theirs, norm(theirs)?)
    }

    /// The same with the error measured by `scale`.
    pub(crate) fn within(
        &mut self,
        what: &str,
        ours: &Tensor,
        theirs: &Tensor,
        scale: f64,
    ) -> anyhow::Result<()> {
        let error = match distance(ours, theirs)? {
            0.0 => 0.0, // where nothing has moved yet, the scale is 0 too
            distance => distance / scale,
        };
        self.worst = self.worst.max(error);
        if error.is_nan() || error > self.tolerance {
            self.failures.push(format!("{what}: relative error {error:.2e}"));
        }
        Ok(())
    }

    /// All tensors of the same names, ours thinned as theirs are.
    pub(crate) fn all_close(
        &mut self,
        what: &str,
        ours: &NamedTensors,
        theirs: &NamedTensors,
    ) -> anyhow::Result<()> {
        assert!(ours.keys().eq(theirs.keys()), "{what}: {:?} {:?}", ours.keys(), theirs.keys());
        for (name, ours) in ours {
            self.close(&format!("{what}.{name}"), &thinned(ours)?, &theirs[name])?;
        }
        Ok(())
    }
}

/// Every seventh number of a tensor of more than 64: what the files keep of the end.
fn thinned(x: &Tensor) -> candle_core::Result<Tensor> {
    let (x, n) = (x.flatten_all()?, x.elem_count());
    match n > 64 {
        true => x.index_select(&Tensor::arange_step(0, n as u32, 7, x.device())?, 0),
        false => Ok(x),
    }
}

pub(crate) fn norm(x: &Tensor) -> anyhow::Result<f64> {
    Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

/// ‖ours − theirs‖
pub(crate) fn distance(ours: &Tensor, theirs: &Tensor) -> anyhow::Result<f64> {
    norm(&(ours.to_dtype(DType::F64)? - theirs.to_dtype(DType::F64)?)?)
}
