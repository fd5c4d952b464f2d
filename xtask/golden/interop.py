"""torchvision's and timm's own ResNets, for crates/metamask-train/tests/fixtures.

    python interop.py OUT_DIR

interop_state_dicts.txt: names, types and shapes of their `state_dict()` without
the classifier; both libraries must agree. interop_STEM.safetensors: a ResNet-18
of width 4 built of torchvision's class in f32, with random weights and running
statistics, as

    model.NAME          its state_dict
    images, features    [N, H, W, 3] and [N, 32], in evaluation mode, computed in f64

Needs torch, torchvision, timm and safetensors.
"""

import copy
import pathlib
import sys

import timm
import torch
from safetensors.torch import save_file
from torchvision.models import get_model, resnet

WIDTH = 4


class Narrow(resnet.ResNet):
    """torchvision's ResNet of another width than the 64 written into it."""

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = WIDTH
        return super()._make_layer(block, planes * WIDTH // 64, *args, **kwargs)


def with_stem(model, stem, width):
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, width, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    else:
        model.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    return model


def state_dict_lines(model):
    types = {torch.float32: "f32", torch.int64: "i64"}
    lines = []
    for name, tensor in sorted(model.state_dict().items()):
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        lines.append(f"{name} {types[tensor.dtype]} {shape}")
    return lines


def state_dicts():
    text = ""
    for depth, stem in [(18, "imagenet"), (18, "cifar"), (50, "imagenet")]:
        ours = get_model(f"resnet{depth}")
        ours.fc = torch.nn.Identity()
        theirs = timm.create_model(f"resnet{depth}", num_classes=0)
        lines = state_dict_lines(with_stem(ours, stem, 64))
        assert lines == state_dict_lines(with_stem(theirs, stem, 64))
        text += "\n".join([f"resnet{depth} {stem}", *lines]) + "\n\n"
    return text


def narrow(stem, size, generator):
    model = with_stem(Narrow(resnet.BasicBlock, [2, 2, 2, 2]), stem, WIDTH)
    model.bn1 = torch.nn.BatchNorm2d(WIDTH)
    model.fc = torch.nn.Identity()
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.int64:
            tensor.fill_(7)
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith(".weight")):
            values = 0.5 + values.abs()
        elif tensor.dim() == 4:
            values = values * (2 / tensor[0].numel()) ** 0.5
        tensor.copy_(values)
    images = torch.randn(3, 3, size, size, generator=generator)
    with torch.no_grad():
        features = copy.deepcopy(model).double().eval()(images.double()).float()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["images"] = images.permute(0, 2, 3, 1).contiguous()
    tensors["features"] = features
    return tensors


def main():
    out = pathlib.Path(sys.argv[1])
    generator = torch.Generator().manual_seed(0)
    (out / "interop_state_dicts.txt").write_text(state_dicts())
    for stem, size in [("cifar", 12), ("imagenet", 40)]:
        save_file(narrow(stem, size, generator), out / f"interop_{stem}.safetensors")


main()
