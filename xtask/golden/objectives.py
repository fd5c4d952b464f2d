"""References of the objectives, for crates/metamask-objectives/tests/fixtures.

    python objectives.py OUT_DIR

The six losses of reference/losses.py in f64, with the derivatives that PyTorch's
autograd finds. For each case there are

    CASE.view_a, CASE.view_b          embeddings, or predictions
    CASE.other_a, CASE.other_b        targets (BYOL), neighbours (NNCLR)
    CASE.direction_a, CASE.direction_b
    CASE.settings                     lambda, tau, tau_plus, beta

and for each LOSS of a case

    CASE.LOSS.value
    CASE.LOSS.gradient_a, ...gradient_b       of the value
    CASE.LOSS.tangent                         derivative of the value along the directions
    CASE.LOSS.second_a, ...second_b           gradient of the tangent

Needs torch and safetensors.
"""

import pathlib
import sys

import torch
from reference.losses import (
    barlow_twins, byol_cosine, debiased_nt_xent,
    hard_negative_nt_xent, nearest_neighbour_nt_xent, nt_xent,
)  # fmt: skip
from safetensors.torch import save_file

LOSSES = [
    barlow_twins, nt_xent, byol_cosine,
    debiased_nt_xent, hard_negative_nt_xent, nearest_neighbour_nt_xent,
]  # fmt: skip


def main(out_dir):
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for case, shape, settings in [
        ("odd", (7, 5), {"lambda": 5e-3, "tau": 0.5, "tau_plus": 0.1, "beta": 1.0}),
        ("three", (3, 6), {"lambda": 1.0, "tau": 0.2, "tau_plus": 0.01, "beta": 0.5}),
        ("cold", (6, 4), {"lambda": 0.1, "tau": 0.05, "tau_plus": 0.3, "beta": 2.0}),
    ]:
        normals = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(6)]
        views, others, directions = normals[:2], normals[2:4], normals[4:]
        for name, pair in [("view", views), ("other", others), ("direction", directions)]:
            tensors |= {f"{case}.{name}_a": pair[0], f"{case}.{name}_b": pair[1]}
        tensors[f"{case}.settings"] = torch.tensor(list(settings.values()), dtype=torch.float64)
        for loss in LOSSES:
            leaves = [view.clone().requires_grad_() for view in views]
            value = loss(*leaves, others, settings)
            gradients = torch.autograd.grad(value, leaves, create_graph=True)
            tangent = sum((g * v).sum() for g, v in zip(gradients, directions))
            seconds = torch.autograd.grad(tangent, leaves)
            name = f"{case}.{loss.__name__}"
            tensors |= {f"{name}.value": value, f"{name}.tangent": tangent}
            for view, gradient, second in zip("ab", gradients, seconds):
                tensors |= {f"{name}.gradient_{view}": gradient, f"{name}.second_{view}": second}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, pathlib.Path(out_dir) / "objectives.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
