"""References of the backbones and heads, for crates/metamask-encoders/tests/fixtures.

    python encoders.py OUT_DIR

Small residual networks, the networks `conv` and `fc`, and one head in f64 with
random weights: residual networks written from He et al. 2016 (table 1), batch
normalisation from its formula. Names are checked against torchvision's or those
of an nn.Sequential. Each file holds

    parameter.NAME, running.NAME    what goes in, in PyTorch's layout
    input, cotangent                x and u
    batch, evaluation               output by the batch's and by the running statistics
    gradient.NAME, gradient_input   of <u, output> by the batch's statistics
    tangent                         derivative of the output along the parameters' gradient
    updated.NAME                    running statistics after one pass over the batch

Needs torch, torchvision and safetensors.
"""

import pathlib
import sys

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

EPSILON, MOMENTUM = 1e-5, 0.1


class Pass:
    """One evaluation: parameters and running statistics by name, the mode, the updates."""

    def __init__(self, parameters, running, training):
        self.parameters, self.running, self.training = parameters, running, training
        self.updated = {}

    def batch_norm(self, name, x):
        axes = [0] + list(range(2, x.dim()))  # all but the channels
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, variance = self.running[f"{name}.running_mean"], self.running[f"{name}.running_var"]
        if self.training:
            n = x.numel() // x.shape[1]
            new_mean = x.mean(axes)
            squares = (x - new_mean.reshape(shape)).square().sum(axes)
            self.updated[f"{name}.running_mean"] = (1 - MOMENTUM) * mean + MOMENTUM * new_mean
            self.updated[f"{name}.running_var"] = (1 - MOMENTUM) * variance + MOMENTUM * squares / (n - 1)
            mean, variance = new_mean, squares / n
        normalised = (x - mean.reshape(shape)) / (variance + EPSILON).sqrt().reshape(shape)
        gamma, beta = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return normalised * gamma.reshape(shape) + beta.reshape(shape)

    def conv(self, name, x, stride):
        weight = self.parameters[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def linear(self, name, x):
        return x @ self.parameters[f"{name}.weight"].T + self.parameters.get(f"{name}.bias", 0.0)


def resnet(p, x, depth, stem, stem_relu):
    x = p.batch_norm("bn1", p.conv("conv1", x, 2 if stem == "imagenet" else 1))
    if stem_relu:
        x = x.relu()
    if stem != "cifar":
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate({18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth]):
        for block in range(blocks):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            strides = [stride, 1] if depth == 18 else [1, stride, 1]
            y = x
            for i, s in enumerate(strides):
                y = p.batch_norm(f"{name}.bn{i + 1}", p.conv(f"{name}.conv{i + 1}", y, s))
                if i + 1 < len(strides):
                    y = y.relu()
            if f"{name}.downsample.0.weight" in p.parameters:
                x = p.batch_norm(f"{name}.downsample.1", p.conv(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
    return x.mean((2, 3))


def resnet_shapes(depth, stem, width):
    """torchvision's names and shapes, with the width and the stem replaced."""
    full = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth](weights=None)
    shapes = {}
    for name, tensor in full.state_dict().items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        shape = [n if i >= 2 or n == 3 else n * width // 64 for i, n in enumerate(tensor.shape)]
        shapes[name] = shape
    if stem != "imagenet":
        shapes["conv1.weight"][2:] = [3, 3]
    return shapes


def conv_net(p, x):
    for layer, stride in enumerate([1, 2, 2, 2]):
        x = p.conv(f"features.{3 * layer}", x, stride)
        x = p.batch_norm(f"features.{3 * layer + 1}", x).relu()
    return x.mean((2, 3))


def fully_connected(p, x):
    x = x.permute(0, 2, 3, 1).flatten(1)
    for layer in range(3):
        x = p.linear(f"features.{3 * layer}", x)
        x = p.batch_norm(f"features.{3 * layer + 1}", x).relu()
    return x


def sequential_shapes(name, *layers):
    """An nn.Sequential's names and shapes, below the name it has in its module."""
    return {
        f"{name}.{key}": list(tensor.shape)
        for key, tensor in torch.nn.Sequential(*layers).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def conv_net_shapes(width):
    layers, n_in = [], 3
    for n_out in [width, 2 * width, 4 * width, 8 * width]:
        layers += [torch.nn.Conv2d(n_in, n_out, 3, bias=False), torch.nn.BatchNorm2d(n_out), torch.nn.ReLU()]
        n_in = n_out
    return sequential_shapes("features", *layers)


def fully_connected_shapes(size, widths):
    layers, n_in = [], 3 * size * size
    for n_out in widths:
        layers += [torch.nn.Linear(n_in, n_out, bias=False), torch.nn.BatchNorm1d(n_out), torch.nn.ReLU()]
        n_in = n_out
    return sequential_shapes("features", *layers)


def head(p, x):
    x = p.batch_norm("head.1", p.linear("head.0", x)).relu()
    x = p.batch_norm("head.4", p.linear("head.3", x)).relu()
    return p.batch_norm("head.7", p.linear("head.6", x))


HEAD_SHAPES = sequential_shapes(
    "head",
    torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.ReLU(),
    torch.nn.Linear(7, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(),
    torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4),
)  # fmt: skip


def write(path, function, shapes, input_shape, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parameters, running = {}, {}
    for name, shape in shapes.items():
        if name.endswith("running_mean"):
            running[name] = 0.3 * normal(*shape)
        elif name.endswith("running_var"):
            running[name] = 0.5 + normal(*shape).square()
        elif name.endswith("bias"):
            parameters[name] = 0.5 * normal(*shape)
        elif len(shape) == 1:  # a normalisation's scale
            parameters[name] = 1.0 + 0.3 * normal(*shape)
        else:
            fan_in = torch.Size(shape[1:]).numel()
            parameters[name] = normal(*shape) * (2.0 / fan_in) ** 0.5
    x = normal(*input_shape)

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    x_leaf = x.clone().requires_grad_()
    training = Pass(leaves, running, training=True)
    batch = function(training, x_leaf)
    u = normal(*batch.shape)
    gradients = torch.autograd.grad((u * batch).sum(), [*leaves.values(), x_leaf])
    direction = dict(zip(leaves, gradients))
    _, tangent = torch.func.jvp(
        lambda theta: function(Pass(theta, running, training=True), x), (parameters,), (direction,)
    )

    tensors = {
        "input": x,
        "cotangent": u,
        "batch": batch,
        "evaluation": function(Pass(parameters, running, training=False), x),
        "gradient_input": gradients[-1],
        "tangent": tangent,
    }
    for prefix, group in [
        ("parameter", parameters),
        ("running", running),
        ("gradient", direction),
        ("updated", training.updated),
    ]:
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in group.items()}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def main(out_dir):
    out = pathlib.Path(out_dir)
    for name, depth, stem, width, stem_relu, input_shape, seed in [
        ("resnet18_cifar.safetensors", 18, "cifar", 4, True, (3, 3, 16, 14), 1),
        ("resnet18_cifar-with-pool.safetensors", 18, "cifar-with-pool", 1, False, (4, 3, 24, 24), 2),
        ("resnet50_imagenet.safetensors", 50, "imagenet", 1, True, (4, 3, 33, 33), 13),
    ]:
        write(
            out / name,
            lambda p, x: resnet(p, x, depth, stem, stem_relu),
            resnet_shapes(depth, stem, width),
            input_shape,
            seed,
        )
    write(out / "conv.safetensors", conv_net, conv_net_shapes(3), (3, 3, 14, 13), 5)
    write(out / "fc.safetensors", fully_connected, fully_connected_shapes(5, [8, 7, 6]), (9, 3, 5, 5), 6)
    write(out / "head.safetensors", head, HEAD_SHAPES, (9, 5), 4)


if __name__ == "__main__":
    main(sys.argv[1])
