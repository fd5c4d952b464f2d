"""The speed table of run.sh: ours and PyTorch's in turn, round by round, and what the forms of the
mask cost. Prints Markdown. Without PyTorch ours stands alone.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent

# In units of a plain step, without L_drr: docs/method.md counts them.
FORMS = [
    ("lookahead", "first-order", 1.00),
    ("lookahead", "exact", 5 / 3),
    ("shared", "first-order", 4 / 3),
    ("shared", "exact", 8 / 3),
    ("after-regular", "finite-difference", 11 / 3),
]
# Compiling takes most of a minute, once for each.
MODES = ["channels_last", "compile_channels_last"]


def measured(command):
    """The last line of what a command prints, a JSON object; none if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        said = (done.stderr.strip().splitlines() or ["said nothing"])[-1]
        print(f"{' '.join(command)}: {said}", file=sys.stderr)
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metamask", required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=15, help="PyTorch's, not timed")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()

    def ours(precision, *settings):
        command = [args.metamask, "bench", "step", "--json", "--device", args.device]
        command += ["--preset", "cifar10-simclr-tuned", "--steps", str(args.steps)]
        for setting in [
            f"training.batch_size={args.batch}",
            f"encoder.width={args.width}",
            f"engine.precision={precision}",
            *settings,
        ]:
            command += ["--set", setting]
        return measured(command)

    def torchs(mode):
        command = [sys.executable, str(HERE / "torch_simclr.py"), "--device", args.device]
        command += ["--mode", mode, "--batch", str(args.batch), "--width", str(args.width)]
        return measured(command + ["--steps", str(args.steps), "--warmup", str(args.warmup)])

    modes = MODES if importlib.util.find_spec("torch") else []
    contenders = {"metamask, bf16": lambda: ours("bf16"), "metamask, fast (TF32)": lambda: ours("fast")}
    for mode in modes:
        contenders[f"PyTorch, bf16, {mode}"] = lambda mode=mode: torchs(mode)
    found = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, run in contenders.items():
            result = run()
            if result:
                found[name].append(result)

    print(f"SimCLR on ResNet-18 of width {args.width}, CIFAR stem, 32 px, batch {args.batch} of two views, data and")
    print(f"augmentation included; {args.rounds} rounds of {args.steps} iterations, contenders in turn, medians.\n")
    print("| | ms | smallest | views/s | peak, MiB |")
    print("|---|---|---|---|---|")
    medians = {}
    for name, results in found.items():
        if not results:
            print(f"| {name} | failed | | | |")
            continue
        ms = statistics.median(r["median_ms"] for r in results)
        medians[name] = ms
        peaks = [r["peak_mib"] for r in results if r["peak_mib"]]
        peak = f"{max(peaks):.0f}" if peaks else ""
        smallest = min(r["min_ms"] for r in results)
        print(f"| {name} | {ms:.2f} | {smallest:.2f} | {2e3 * args.batch / ms:,.0f} | {peak} |")
    mine = medians.get("metamask, bf16")
    theirs = [ms for name, ms in medians.items() if name.startswith("PyTorch")]
    if mine and theirs:
        print(f"\nOurs over the best of theirs: {min(theirs) / mine:.2f} times as fast (target 1.4).")

    knn = measured([args.metamask, "bench", "knn", "--json", "--device", args.device])
    if knn:
        print(f"\nkNN, 10,000 queries, a bank of 50,000 of width 512, k = 200, features already there: {knn['median_ms']:.1f} ms,")
        print(f"smallest {knn['min_ms']:.1f} (target 50).")
    else:
        print("\nkNN failed.")

    plain = ours("bf16")
    print("\n| mask, bf16, without L_drr | ms | over plain | counted | of its count |")
    print("|---|---|---|---|---|")
    for virtual_step, hypergradient, count in FORMS:
        result = ours(
            "bf16",
            "mask.mode=on",
            f"meta.virtual_step={virtual_step}",
            f"meta.hypergradient={hypergradient}",
        )
        name = f"{virtual_step}, {hypergradient}"
        if not (result and plain):
            print(f"| {name} | failed | | | |")
            continue
        ratio = result["median_ms"] / plain["median_ms"]
        print(f"| {name} | {result['median_ms']:.2f} | {ratio:.2f} | {count:.2f} | {ratio / count:.2f} |")
    return 0 if mine else 1


if __name__ == "__main__":
    sys.exit(main())
