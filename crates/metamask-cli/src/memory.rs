//! The end of a program that gets no more memory.

use std::{
    io::{IsTerminal, Write, stderr},
    process::exit,
};

use metamask_ops::Allocator;
use metamask_train::Code;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new(refused);

/// Nothing here may allocate: not even a [`metamask_train::Failure`].
fn refused(n_bytes: usize) -> ! {
    let (code, mib) = (Code::Memory, n_bytes as f64 / f64::from(1 << 20));
    let mut stderr = stderr().lock();
    if stderr.is_terminal() {
        // Below the line of the progress.
        let _ = stderr.write_all(b"\n");
    }
    let _ = writeln!(
        stderr,
        "error[{}]: could not allocate {n_bytes} bytes ({mib:.1} MiB), the system has no more\n  \
         kept: what was saved\n  \
         help: take a smaller batch, or --set meta.activations=recompute; \
         `metamask doctor` says beforehand what a run needs",
        code.name()
    );
    exit(code.exit_status().into())
}
