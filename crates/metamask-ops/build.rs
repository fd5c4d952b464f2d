//! Compiles the CUDA kernels to PTX where the feature `cuda` asks for them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::compile();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::path::PathBuf;

    /// `OUT_DIR/ptx.rs`: a constant for each file of `src/cuda/kernels`.
    pub fn compile() {
        let folder = "src/cuda/kernels";
        println!("cargo::rerun-if-changed={folder}");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
        let ptx = cudaforge::KernelBuilder::new()
            .source_dir(folder)
            .arg("-std=c++17")
            .arg("-O3")
            .build_ptx()
            .and_then(|ptx| ptx.write(out.join("ptx.rs")));
        if let Err(error) = ptx {
            panic!(
                "the feature `cuda` needs NVIDIA's compiler nvcc: install a CUDA toolkit (12 or 13), \
                 or run `cargo xtask cuda-toolchain` where there is no GPU ({error})"
            );
        }
    }
}
