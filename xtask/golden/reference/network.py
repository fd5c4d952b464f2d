"""A small ResNet-18 with heads in PyTorch's functions, its initial state, and views to feed it.

Parameters are a dictionary by PyTorch's names: encoder.* as torchvision's resnet18 (no fc),
heads as nn.Sequential numbers its layers, ReLUs counted. `running` holds the running
statistics to update, or is None: then the batch's statistics are used and nothing is left
behind.
"""

import itertools
import math

import torch
import torch.nn.functional as F

BATCH, SIZE = 16, 12
WIDTHS, BLOCKS = [2, 4, 8, 16], 2
HEADS = {"redundancy_head": [16, 14, 14, 12], "contrastive_head": [16, 12, 10], "predictor": [10, 8, 10]}


def batch_norm(p, running, name, x):
    mean = running[f"{name}.running_mean"] if running else None
    variance = running[f"{name}.running_var"] if running else None
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)


def encoder(p, running, x):
    """ResNet-18 with CIFAR stem: 3x3, stride 1, no max-pool; global average pool."""

    def conv_norm(conv, norm, x, stride):
        weight = p[f"encoder.{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return batch_norm(p, running, f"encoder.{norm}", x)

    x = F.relu(conv_norm("conv1", "bn1", x, 1))
    for stage, block in itertools.product(range(4), range(BLOCKS)):
        name = f"layer{stage + 1}.{block}"
        stride = 2 if stage > 0 and block == 0 else 1
        y = F.relu(conv_norm(f"{name}.conv1", f"{name}.bn1", x, stride))
        y = conv_norm(f"{name}.conv2", f"{name}.bn2", y, 1)
        if stride == 2:
            x = conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
        x = F.relu(x + y)
    return x.mean((2, 3))


def head(p, running, name, x):
    """Linear, batch norm, ReLU, ..., Linear, and batch norm but for the predictor."""
    n_linear = len(HEADS[name]) - 1
    for i in range(n_linear):
        x = F.linear(x, p[f"{name}.{3 * i}.weight"], p[f"{name}.{3 * i}.bias"])
        if f"{name}.{3 * i + 1}.weight" in p:
            x = batch_norm(p, running, f"{name}.{3 * i + 1}", x)
        x = F.relu(x) if i < n_linear - 1 else x
    return x


class State:
    """Parameters and running statistics at their start, `scale` times PyTorch's defaults:
    weights and biases uniform in +-1/sqrt(fan_in); norms 1 and 0, +-0.2."""

    def __init__(self, generator, scale):
        self.p, self.running = {}, {}
        self.generator, self.scale = generator, scale

    def uniform(self, shape, fan_in):
        x = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (self.scale * (2 * x - 1) / math.sqrt(fan_in)).float().double()

    def norm(self, name, n):
        self.p[f"{name}.weight"] = (self.scale + self.uniform((n,), 25)).float().double()
        self.p[f"{name}.bias"] = self.uniform((n,), 25)
        self.running[f"{name}.running_mean"] = torch.zeros(n, dtype=torch.float64)
        self.running[f"{name}.running_var"] = torch.ones(n, dtype=torch.float64)

    def add_encoder(self):
        def conv(name, n_in, n_out, kernel):
            shape = (n_out, n_in, kernel, kernel)
            self.p[f"encoder.{name}.weight"] = self.uniform(shape, n_in * kernel**2)

        conv("conv1", 3, WIDTHS[0], 3)
        self.norm("encoder.bn1", WIDTHS[0])
        n_in = WIDTHS[0]
        for (stage, n), block in itertools.product(enumerate(WIDTHS), range(BLOCKS)):
            name = f"layer{stage + 1}.{block}"
            conv(f"{name}.conv1", n_in, n, 3)
            self.norm(f"encoder.{name}.bn1", n)
            conv(f"{name}.conv2", n, n, 3)
            self.norm(f"encoder.{name}.bn2", n)
            if n_in != n:
                conv(f"{name}.downsample.0", n_in, n, 1)
                self.norm(f"encoder.{name}.downsample.1", n)
            n_in = n

    def add_head(self, name):
        widths = HEADS[name]
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            self.p[f"{name}.{3 * i}.weight"] = self.uniform((b, a), a)
            self.p[f"{name}.{3 * i}.bias"] = self.uniform((b,), a)
            if name != "predictor" or i < len(widths) - 2:
                self.norm(f"{name}.{3 * i + 1}", b)


def draw_views(generator):
    """Two views of smooth random images: common waves, and noise of its own for each view."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, SIZE, dtype=torch.float64)] * 2, indexing="ij")
    frequency = 2 * math.pi * (4 * torch.rand(BATCH, 3, 3, 2, generator=generator, dtype=torch.float64) - 2)
    phase = 2 * math.pi * torch.rand(BATCH, 3, 3, generator=generator, dtype=torch.float64)
    waves = frequency[..., 0, None, None] * y + frequency[..., 1, None, None] * x + phase[..., None, None]
    content = waves.sin().mean(2)
    noise = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return [(content + 0.3 * n).float().double() for n in noise]  # NCHW
