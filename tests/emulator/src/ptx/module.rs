//! A module's text, cut into kernels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::decode::{self, Kernel};

/// A loaded module. Kernels are decoded when they are asked for.
#[derive(Debug)]
pub struct Module {
    texts: BTreeMap<String, String>,
    /// Declarations of shared memory that several kernels use.
    shared: Vec<String>,
    kernels: Mutex<BTreeMap<String, Arc<Kernel>>>,
}

impl Module {
    /// Finds the entries of `ptx`.
    ///
    /// # Errors
    /// If an entry does not end.
    pub fn parse(ptx: &str) -> Result<Self, String> {
        let mut texts = BTreeMap::new();
        // Of the module, not of a kernel: not indented.
        let of_module =
            |line: &&str| line.starts_with(".shared") || line.starts_with(".extern .shared");
        let shared = ptx.lines().filter(of_module);
        let shared = shared.map(|line| line.trim_start_matches(".extern ").to_owned()).collect();
        let mut rest = ptx;
        while let Some(at) = rest.find(".entry ") {
            rest = &rest[at + ".entry ".len()..];
            let name = rest.split(|c: char| c == '(' || c.is_whitespace()).next().unwrap_or("");
            let open = rest.find("\n{").ok_or_else(|| format!("`{name}` has no body"))?;
            let close = rest.find("\n}").ok_or_else(|| format!("`{name}` does not end"))?;
            if close < open {
                return Err(format!("`{name}` ends before it begins"));
            }
            texts.insert(name.to_owned(), rest[..close].to_owned());
            rest = &rest[close..];
        }
        Ok(Self { texts, shared, kernels: Mutex::default() })
    }

    /// The kernel of this name.
    ///
    /// # Errors
    /// If there is none, or it has an instruction that is not known here.
    pub fn kernel(&self, name: &str) -> Result<Arc<Kernel>, String> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(Arc::clone(kernel));
        }
        let text = self.texts.get(name).ok_or_else(|| format!("there is no kernel `{name}`"))?;
        let kernel = Arc::new(decode::kernel(name, text, &self.shared)?);
        kernels.insert(name.to_owned(), Arc::clone(&kernel));
        Ok(kernel)
    }
}
