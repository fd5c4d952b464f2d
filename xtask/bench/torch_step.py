"""One training step, or feature extraction, of a ResNet with CIFAR stem in PyTorch.

A step is forward, backward and SGD with momentum on a fixed random batch;
extraction is the forward pass in evaluation mode without gradients. Prints one
JSON object: the median and the smallest time, in ms, and the peak of the
resident memory in MiB.
"""

import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

MODES = ["eager", "channels_last", "compile", "compile_channels_last"]


def shortcut(n_in, n_out, stride):
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, n_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(n_in, channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, n_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = shortcut(n_in, 4 * channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, depth, width, n_outputs=128):
        super().__init__()
        block, counts = {18: (BasicBlock, [2, 2, 2, 2]), 50: (Bottleneck, [3, 4, 6, 3])}[depth]
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, n_in = [], width
        for stage, count in enumerate(counts):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(n_in, width << stage, stride))
                n_in = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(n_in, n_outputs)

    def features(self, x):
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class ResNet18(ResNet):
    """Of full width."""

    def __init__(self, n_outputs=128):
        super().__init__(18, 64, n_outputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=["step", "extract"], default="step")
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--depth", type=int, choices=[18, 50], default=18)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = ResNet(args.depth, args.width)
    images = torch.randn(args.batch, 3, args.size, args.size)
    if "channels_last" in args.mode:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    run = model if args.task == "step" else model.eval().features
    if "compile" in args.mode:
        run = torch.compile(run)
    precision = (
        torch.autocast("cpu", dtype=torch.bfloat16) if args.bf16 else contextlib.nullcontext()
    )

    def step():
        with precision:
            loss = run(images).float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def extract():
        with precision:
            run(images)

    work = step if args.task == "step" else extract
    times_ms = []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        work()
        times_ms.append((time.perf_counter() - start) * 1e3)
    times_ms = times_ms[args.warmup :]
    print(json.dumps({
        "median_ms": statistics.median(times_ms),
        "min_ms": min(times_ms),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
