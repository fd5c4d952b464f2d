//! The rows of the table: what runs on our side, what on theirs.

/// A measurement that both sides take.
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) what: &'static str,
    pub(super) quantity: Quantity,
    pub(super) ours: Ours,
    pub(super) theirs: &'static [Theirs],
    /// What ours over theirs is to be at most.
    pub(super) target: f64,
}

/// What is compared; smaller is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    /// The field `median_ms`.
    Time,
    /// The field `peak_mib`.
    Memory,
}

/// One of our benchmarks: package, its benchmark, arguments, environment.
pub(super) struct Ours {
    pub(super) package: &'static str,
    pub(super) bench: &'static str,
    pub(super) arguments: &'static str,
    pub(super) environment: &'static [(&'static str, &'static str)],
}

/// One of their programs under xtask/bench, with arguments and environment.
pub(super) struct Theirs {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    pub(super) arguments: &'static str,
    pub(super) environment: &'static [(&'static str, &'static str)],
}

const fn step(arguments: &'static str) -> Ours {
    Ours { package: "metamask-train", bench: "training_step", arguments, environment: &[] }
}

const fn meta_step(arguments: &'static str) -> Ours {
    Ours { package: "metamask-train", bench: "meta_step", arguments, environment: &[] }
}

/// PyTorch's program of the whole method, in both layouts.
macro_rules! torch_meta {
    ($mode:literal) => {
        &[
            peer("eager", "torch_meta_step.py", concat!("--drr --mode ", $mode)),
            peer(
                "channels_last",
                "torch_meta_step.py",
                concat!("--drr --channels-last --mode ", $mode),
            ),
        ]
    };
}

/// PyTorch in its four modes, with arguments that all of them get.
macro_rules! torch {
    ($arguments:literal) => {
        torch!($arguments, &[])
    };
    ($arguments:literal, $environment:expr) => {
        &[
            torch!(@ "eager", "eager", $arguments, $environment),
            torch!(@ "channels_last", "channels_last", $arguments, $environment),
            torch!(@ "torch.compile", "compile", $arguments, $environment),
            torch!(@ "both", "compile_channels_last", $arguments, $environment),
        ]
    };
    (@ $name:literal, $mode:literal, $arguments:literal, $environment:expr) => {
        Theirs {
            name: $name,
            script: "torch_step.py",
            arguments: concat!("--mode ", $mode, " ", $arguments),
            environment: $environment,
        }
    };
}

const fn time(
    id: &'static str,
    what: &'static str,
    ours: Ours,
    theirs: &'static [Theirs],
    target: f64,
) -> Row {
    Row { id, what, quantity: Quantity::Time, ours, theirs, target }
}

const fn evaluation(arguments: &'static str) -> Ours {
    Ours { package: "metamask-eval", bench: "evaluation", arguments, environment: &[] }
}

const fn peer(name: &'static str, script: &'static str, arguments: &'static str) -> Theirs {
    Theirs { name, script, arguments, environment: &[] }
}

const AVX2: &[(&str, &str)] = &[("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2")];

/// All rows, in the order of the table.
pub(super) const ROWS: &[Row] = &[
    time(
        "step_f32_b64",
        "training step, ResNet-18, batch 64",
        step("--batch 64"),
        torch!("--batch 64"),
        0.55,
    ),
    time(
        "step_f32_b256",
        "the same, batch 256",
        step("--batch 256 --steps 3"),
        torch!("--batch 256 --steps 3"),
        0.55,
    ),
    time(
        "step_exact_b64",
        "batch 64, precision exact",
        step("--batch 64 --precision exact"),
        torch!("--batch 64"),
        0.95,
    ),
    time(
        "step_bf16_b64",
        "batch 64, precision bf16, theirs with bf16 autocast",
        step("--batch 64 --precision bf16"),
        torch!("--batch 64 --bf16"),
        0.65,
    ),
    time(
        "step_avx2_b64",
        "batch 64, both held to AVX2",
        Ours { environment: &[("METAMASK_KERNEL", "avx2")], ..step("--batch 64") },
        torch!("--batch 64", AVX2),
        0.9,
    ),
    time(
        "step_quarter_b128",
        "quarter width, batch 128",
        step("--width 16 --batch 128"),
        torch!("--width 16 --batch 128"),
        0.5,
    ),
    time(
        "step_r50_b32",
        "ResNet-50, batch 32",
        step("--depth 50 --batch 32 --steps 5"),
        torch!("--depth 50 --batch 32 --steps 5"),
        0.65,
    ),
    time(
        "step_64px",
        "ResNet-18, 64 px, batch 32",
        step("--size 64 --batch 32 --steps 5"),
        torch!("--size 64 --batch 32 --steps 5"),
        0.65,
    ),
    time(
        "step_96px",
        "ResNet-18, 96 px, batch 32",
        step("--size 96 --batch 32 --steps 3"),
        torch!("--size 96 --batch 32 --steps 3"),
        0.65,
    ),
    time(
        "extract",
        "features, ResNet-18, batch 64, running statistics",
        step("--task extract --batch 64"),
        torch!("--task extract --batch 64"),
        0.5,
    ),
    Row {
        quantity: Quantity::Memory,
        ..time(
            "memory_b64",
            "peak resident memory of the training step, batch 64",
            step("--batch 64"),
            torch!("--batch 64"),
            0.55,
        )
    },
    time(
        "metamask_shared_exact",
        "SimCLR + L_drr + MetaMask, shared, exact; theirs by create_graph",
        meta_step(
            "--set meta.virtual_step=shared --set meta.hypergradient=exact \
             --set objective.redundancy_weight=1",
        ),
        torch_meta!("create-graph"),
        0.5,
    ),
    time(
        "metamask_authors",
        "the authors' step: after-regular, finite-difference",
        meta_step(
            "--set meta.virtual_step=after-regular --set meta.hypergradient=finite-difference \
             --set objective.redundancy_weight=1",
        ),
        torch_meta!("authors"),
        0.5,
    ),
    time(
        "knn",
        "kNN, 10,000 queries, 50,000 x 512, k = 200",
        evaluation("--task knn"),
        &[
            peer("PyTorch", "torch_eval.py", "--task knn"),
            peer("FAISS", "torch_eval.py", "--task knn --faiss"),
        ],
        0.5,
    ),
    time(
        "probe",
        "linear probe, 100 passes over 50,000 x 512, L-BFGS",
        evaluation("--task probe"),
        &[peer("PyTorch", "torch_eval.py", "--task probe")],
        0.5,
    ),
    time(
        "views",
        "1,000 SimCLR views of 32 px, one core",
        Ours { package: "metamask-augment", bench: "views", arguments: "", environment: &[] },
        &[
            peer("torchvision, PIL", "peer_views.py", "--peer pil"),
            peer("torchvision v2, tensors", "peer_views.py", "--peer v2"),
            peer("albumentations", "peer_views.py", "--peer albumentations"),
            peer("kornia", "peer_views.py", "--peer kornia"),
        ],
        1.0,
    ),
];
