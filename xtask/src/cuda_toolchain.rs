//! `cargo xtask cuda-toolchain`: a compiler for CUDA where there is no GPU, and a check that
//! the feature `cuda` still builds with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::arguments::Arguments;
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask cuda-toolchain [--check] [--test] [--build]

Prepares target/cuda: nvcc 13.0 and its headers from Python wheels (about 350 MB to
download, once), and empty stand-ins for the libraries that are linked with. Prints the
environment for a build of your own. Needs python3 and gcc; no GPU, no driver.

Options:
  --check  then `cargo check` and clippy with the feature cuda, tests included. Candle's kernels
           for quantised matrices, which nobody here calls, are left out: minutes
           instead of half an hour
  --test   then the tests of what runs on a GPU, on an emulated one (tests/emulator): kernels from
           their PTX, every access checked. It shows what is wrong, not what is slow
  --build  then the whole program, as `cargo build --release --features cuda` does with a
           toolkit that is installed, into target/cuda/build; and whether it starts where
           there is no library of NVIDIA's

The compute capability is $CUDA_COMPUTE_CAP, 80 unless it is set: what is compiled for
80 runs on every later GPU, too.

Example:
  cargo xtask cuda-toolchain --check
";

/// The pinned wheels, relative to the root.
const REQUIREMENTS: &str = "xtask/cuda/requirements.txt";

/// The toolkit's version as cudarc spells it.
const CUDA_VERSION: &str = "13000";

/// What a CUDA program is linked with. Nothing of them is called in a build, so each may be empty.
const LIBRARIES: [(&str, &str); 7] = [
    ("cuda", "libcuda.so.1"),
    ("cudart", "libcudart.so.13"),
    ("nvrtc", "libnvrtc.so.13"),
    ("curand", "libcurand.so.10"),
    ("cublas", "libcublas.so.13"),
    ("cublasLt", "libcublasLt.so.13"),
    ("cudnn", "libcudnn.so.9"),
];

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let (check, test, build) =
        (arguments.flag("--check"), arguments.flag("--test"), arguments.flag("--build"));
    arguments.finish()?;
    let toolchain = Toolchain::prepare()?;
    if check {
        for (command, rest) in [("check", &[][..]), ("clippy", &["--", "-D", "warnings"])] {
            let mut cargo = shell::cargo();
            cargo.args([command, "--workspace", "--exclude", "xtask", "--all-targets"]);
            cargo.args(["--features", FEATURES]).args(rest);
            toolchain.enter(&mut cargo, &toolchain.quick_nvcc()?, "check");
            shell::run(&mut cargo)?;
        }
    }
    if test {
        let emulator = toolchain.emulator()?;
        for (package, tests) in TESTED {
            let mut cargo = shell::cargo();
            cargo.args(["test", "--features", "cuda", "--package", package]).args(tests);
            toolchain.enter(&mut cargo, &toolchain.quick_nvcc()?, "check");
            cargo.env("LD_LIBRARY_PATH", &emulator).env("METAMASK_GPU_EXPECTED", "1");
            shell::run(&mut cargo)?;
        }
    }
    if build {
        let mut cargo = shell::cargo();
        cargo.args(["build", "--release", "--package", "metamask-cli", "--features", "cuda"]);
        toolchain.enter(&mut cargo, &toolchain.nvcc(), "build");
        shell::run(&mut cargo)?;
        let program = toolchain.folder.join("build").join("release").join("metamask");
        starts_without_nvidia(&program)?;
    }
    if !check && !test && !build {
        for (name, value) in toolchain.variables(&toolchain.nvcc()) {
            println!("export {name}={}", value.display());
        }
    }
    Ok(())
}

/// The feature in every crate that has it.
const FEATURES: &str = "metamask-ops/cuda,metamask-augment/cuda,metamask-optim/cuda,metamask-train/cuda,metamask-cli/cuda";

/// The tests that run on a GPU where there is one.
const TESTED: [(&str, &[&str]); 5] = [
    ("metamask-ops", &["--test", "gpu"]),
    ("metamask-ops", &["--lib", "a_gpu"]),
    ("metamask-augment", &["--test", "gpu"]),
    ("metamask-optim", &["--test", "optimisers"]),
    ("metamask-train", &["--test", "gpu"]),
];

/// The names under which the emulator is looked for.
const EMULATED: [&str; 4] = ["libcuda.so.1", "libcublas.so.13", "libcudnn.so.9", "libcurand.so.10"];

/// `target/cuda`.
struct Toolchain {
    folder: PathBuf,
    /// Where the wheels put `bin`, `include` and `nvvm`.
    toolkit: PathBuf,
}

impl Toolchain {
    /// Installs what is not there.
    fn prepare() -> anyhow::Result<Self> {
        let folder = shell::target_dir()?.join("cuda");
        let venv = folder.join("venv");
        let stamp = folder.join("installed.txt");
        let wanted = fs::read_to_string(shell::root().join(REQUIREMENTS))?;
        if !fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            shell::run(shell::command("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            let mut pip = shell::command(venv.join("bin").join("python"));
            pip.args(["-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]);
            shell::run(&mut pip)?;
            fs::write(&stamp, wanted)?;
        }
        let toolkit = find_toolkit(&venv)?;
        let toolchain = Self { folder, toolkit };
        toolchain.stand_ins()?;
        Ok(toolchain)
    }

    fn nvcc(&self) -> PathBuf {
        self.toolkit.join("bin").join("nvcc")
    }

    /// Empty libraries of the names that the linker looks for.
    fn stand_ins(&self) -> anyhow::Result<()> {
        let folder = self.libraries();
        fs::create_dir_all(&folder)?;
        for (name, file) in LIBRARIES {
            let library = folder.join(format!("lib{name}.so"));
            if library.exists() {
                continue;
            }
            let mut gcc = shell::command("gcc");
            gcc.args(["-shared", "-nostdlib", "-o"]).arg(&library);
            gcc.arg(format!("-Wl,-soname,{file}")).args(["-x", "c", "/dev/null"]);
            shell::run(&mut gcc)?;
        }
        Ok(())
    }

    fn libraries(&self) -> PathBuf {
        self.folder.join("lib")
    }

    /// An nvcc that makes empty objects of Candle's quantised kernels.
    fn quick_nvcc(&self) -> anyhow::Result<PathBuf> {
        let root = self.folder.join("quick");
        let nvcc = root.join("bin").join("nvcc");
        fs::create_dir_all(root.join("bin"))?;
        let include = root.join("include");
        if !include.exists() {
            std::os::unix::fs::symlink(self.toolkit.join("include"), &include)?;
        }
        let script = format!(
            "#!/bin/sh\n\
             for last; do :; done\n\
             case \"$last\" in */mmq_gguf/*.cu|*/moe/*.cu|*/mmvq_gguf.cu)\n\
             \x20 while [ $# -gt 0 ]; do [ \"$1\" = -o ] && out=$2; shift; done\n\
             \x20 exec gcc -c -x c /dev/null -o \"$out\";;\n\
             esac\n\
             exec '{}' \"$@\"\n",
            self.nvcc().display()
        );
        if fs::read_to_string(&nvcc).ok().as_deref() != Some(&*script) {
            fs::write(&nvcc, script)?;
            shell::run(shell::command("chmod").arg("+x").arg(&nvcc))?;
        }
        Ok(nvcc)
    }

    /// The folder of an emulated GPU's driver and libraries.
    fn emulator(&self) -> anyhow::Result<PathBuf> {
        let target = self.folder.join("emulator");
        let mut cargo = shell::cargo();
        cargo.args(["build", "--release", "--package", "metamask-cuda-emulator"]);
        shell::run(cargo.env("CARGO_TARGET_DIR", &target))?;
        let folder = target.join("lib");
        fs::create_dir_all(&folder)?;
        for name in EMULATED {
            let link = folder.join(name);
            if !link.exists() {
                let built = "../release/libmetamask_cuda_emulator.so";
                std::os::unix::fs::symlink(built, &link)?;
            }
        }
        Ok(folder)
    }

    fn variables(&self, nvcc: &Path) -> Vec<(&'static str, PathBuf)> {
        let capability = std::env::var_os("CUDA_COMPUTE_CAP").unwrap_or_else(|| "80".into());
        vec![
            ("CUDA_HOME", self.toolkit.clone()),
            ("CUDA_PATH", self.toolkit.clone()),
            ("NVCC", nvcc.to_owned()),
            ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
            ("CUDA_COMPUTE_CAP", capability.into()),
            ("LIBRARY_PATH", self.libraries()),
        ]
    }

    fn enter(&self, command: &mut Command, nvcc: &Path, target: &str) {
        command.envs(self.variables(nvcc));
        command.env("CARGO_TARGET_DIR", self.folder.join(target));
    }
}

/// Whether a program needs none of NVIDIA's libraries before it begins.
fn starts_without_nvidia(program: &Path) -> anyhow::Result<()> {
    let section = shell::output(shell::command("readelf").arg("--dynamic").arg(program))?;
    let needed = needed_of_nvidia(&section);
    anyhow::ensure!(
        needed.is_empty(),
        "{} does not start without {}: give the functions that it calls a namesake in \
         crates/metamask-ops/src/cuda/libraries.rs",
        program.display(),
        needed.join(", ")
    );
    eprintln!("{} starts without a library of NVIDIA's", program.display());
    Ok(())
}

/// Those of NVIDIA's libraries that a dynamic section, as `readelf` shows it, asks for.
fn needed_of_nvidia(section: &str) -> Vec<&'static str> {
    let needed = |soname: &str| {
        let asked = format!("[{soname}]");
        section.lines().any(|line| line.contains("(NEEDED)") && line.contains(&asked))
    };
    LIBRARIES.iter().map(|(_, soname)| *soname).filter(|soname| needed(soname)).collect()
}

/// `lib/python3.N/site-packages/nvidia/cu13` of a virtual environment.
fn find_toolkit(venv: &Path) -> anyhow::Result<PathBuf> {
    let lib = venv.join("lib");
    let pythons = fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    for python in pythons {
        let toolkit = python?.path().join("site-packages").join("nvidia").join("cu13");
        if toolkit.join("bin").join("nvcc").is_file() {
            return Ok(toolkit);
        }
    }
    anyhow::bail!("{}: the wheels of {REQUIREMENTS} put no nvcc there", lib.display())
}

#[cfg(test)]
mod tests {
    use super::needed_of_nvidia;

    #[test]
    fn a_library_that_a_program_needs_is_found() {
        let section = " 0x1 (NEEDED)  Shared library: [libc.so.6]\n\
                       \x200x1 (NEEDED)  Shared library: [libcuda.so.1]\n\
                       \x200xe (SONAME)  Library soname: [libcudnn.so.9]\n";
        assert_eq!(needed_of_nvidia(section), ["libcuda.so.1"]);
        assert!(needed_of_nvidia(" 0x1 (NEEDED)  Shared library: [libm.so.6]\n").is_empty());
    }
}
