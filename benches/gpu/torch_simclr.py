"""SimCLR's iteration in PyTorch, as fast as PyTorch does it: images on the GPU as bytes,
augmentation there in whole batches of tensors, ResNet-18 with CIFAR stem, NT-Xent, SGD.

Prints one JSON object: median and smallest time of an iteration in ms, views a second, the
peak of the GPU's memory in MiB.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

sys.path.append(str(pathlib.Path(__file__).parents[2] / "xtask" / "bench"))
from torch_step import MODES, ResNet  # noqa: E402

LUMA = [0.299, 0.587, 0.114]


def luma(x):
    return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def uniform(x, low, high):
    return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)


def crop_and_flip(x):
    """RandomResizedCrop(0.08 to 1, ratio 3/4 to 4/3) and RandomHorizontalFlip."""
    n, side = len(x), x.shape[-1]
    area = torch.empty(n, device=x.device).uniform_(0.08, 1.0)
    ratio = torch.empty(n, device=x.device).uniform_(-0.2877, 0.2877).exp()
    w, h = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    cx = (torch.rand(n, device=x.device) * 2 - 1) * (1 - w)
    cy = (torch.rand(n, device=x.device) * 2 - 1) * (1 - h)
    flip = (torch.rand(n, device=x.device) < 0.5).float() * -2 + 1
    zero = torch.zeros_like(w)
    theta = torch.stack([w * flip, zero, cx, zero, h, cy], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def turn_hue(x, shift):
    """Turns the hue by a share of the circle."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    scale = 1 / chroma.clamp(min=1e-8)
    r, g, b = x.split(1, 1)
    hue = torch.where(value == g, (b - r) * scale + 2, (r - g) * scale + 4)
    hue = (torch.where(value == r, (g - b) * scale, hue) + 6 * shift) % 6
    shares = torch.cat([(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()], 1)
    return low + chroma * shares.clamp(0, 1)


def augment(x):
    """SimCLR's view of each image in 0 to 1; the colours change in one order for the batch."""
    x = crop_and_flip(x)
    y = (x * uniform(x, 0.6, 1.4)).clamp(0, 1)
    f = uniform(x, 0.6, 1.4)
    y = (y * f + luma(y).mean((2, 3), keepdim=True) * (1 - f)).clamp(0, 1)
    f = uniform(x, 0.6, 1.4)
    y = (y * f + luma(y) * (1 - f)).clamp(0, 1)
    y = turn_hue(y, uniform(x, -0.1, 0.1))
    x = torch.where(uniform(x, 0, 1) < 0.8, y, x)
    x = torch.where(uniform(x, 0, 1) < 0.2, luma(x).expand_as(x), x)
    mean = x.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = x.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return (x - mean) / std


def nt_xent(z, temperature):
    z = F.normalize(z, dim=1)
    n = len(z) // 2
    logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    positive = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, positive)


class SimCLR(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.encoder = ResNet(18, width)
        self.encoder.fc = nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(8 * width, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(),
            nn.Linear(2048, 256, bias=False), nn.BatchNorm1d(256),
        )

    def forward(self, x):
        return self.head(self.encoder.features(x))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--mode", choices=MODES, default="channels_last")
    parser.add_argument("--no-bf16", action="store_true", help="TF32 instead of bfloat16")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=15)
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    device = torch.device(args.device)
    shape = (args.images, 3, args.size, args.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    model = SimCLR(args.width).to(device)
    make = augment
    if "channels_last" in args.mode:
        model = model.to(memory_format=torch.channels_last)
    run = model
    if "compile" in args.mode:
        run, make = torch.compile(model), torch.compile(augment)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=device.type == "cuda"
    )
    precision = (
        contextlib.nullcontext()
        if args.no_bf16
        else torch.autocast(device.type, dtype=torch.bfloat16)
    )

    def step():
        samples = torch.randint(args.images, (args.batch,), device=device)
        batch = images[samples].float() / 255
        views = make(torch.cat([batch, batch]))
        if "channels_last" in args.mode:
            views = views.contiguous(memory_format=torch.channels_last)
        with precision:
            z = run(views)
        loss = nt_xent(z.float(), 0.5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # The loss is looked at in every step, as ours is.
        return loss.item()

    times_ms = []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - start) * 1e3)
    times_ms = times_ms[args.warmup :]
    median = statistics.median(times_ms)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    print(json.dumps({
        "median_ms": median,
        "min_ms": min(times_ms),
        "views_per_second": 2e3 * args.batch / median,
        "peak_mib": peak,
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
