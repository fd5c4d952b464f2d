"""References of the objectives, for crates/metamask-objectives/tests/fixtures.

    python objectives.py OUT_DIR

The six losses in f64, written from the papers' formulas without a thought for
overflow, with the derivatives that PyTorch's autograd finds. For each case
there are

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

import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def barlow_twins(a, b, others, settings):
    n, d = a.shape
    a, b = [(z - z.mean(0)) / (z.var(0) + 1e-12).sqrt() for z in (a, b)]
    correlation = a.T @ b / n
    on = torch.eye(d, dtype=torch.bool)
    return (1 - correlation[on]).square().sum() + settings["lambda"] * correlation[~on].square().sum()


def nt_xent(a, b, others, settings):
    n = len(a)
    u = F.normalize(torch.cat([a, b]), dim=1)
    logits = (u @ u.T / settings["tau"]).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def positives_and_negatives(a, b, settings):
    """exp(s) of each view with its partner, [2N], and with the 2N - 2 views of other samples."""
    n = len(a)
    u = F.normalize(torch.cat([a, b]), dim=1)
    exp = (u @ u.T / settings["tau"]).exp()
    rows = torch.arange(2 * n)
    is_negative = rows[:, None] % n != rows[None, :] % n
    return exp[rows, rows.roll(n)], exp[is_negative].reshape(2 * n, 2 * n - 2)


def debiased(positive, total, n, settings):
    tau_plus = settings["tau_plus"]
    estimate = (total - tau_plus * n * positive) / (1 - tau_plus)
    estimate = torch.maximum(estimate, torch.full_like(estimate, n * math.exp(-1 / settings["tau"])))
    return -(positive / (positive + estimate)).log().mean()


def debiased_nt_xent(a, b, others, settings):
    positive, negatives = positives_and_negatives(a, b, settings)
    return debiased(positive, negatives.sum(1), negatives.shape[1], settings)


def hard_negative_nt_xent(a, b, others, settings):
    positive, negatives = positives_and_negatives(a, b, settings)
    hardness = negatives ** settings["beta"]
    weights = hardness / hardness.mean(1, keepdim=True)
    return debiased(positive, (weights * negatives).sum(1), negatives.shape[1], settings)


def byol_cosine(a, b, others, settings):
    target_a, target_b = others
    terms = [F.normalize(p, dim=1) - F.normalize(t, dim=1) for p, t in [(a, target_b), (b, target_a)]]
    return sum(term.square().sum(1).mean() for term in terms)


def nearest_neighbour_nt_xent(a, b, others, settings):
    nn_a, nn_b = others
    losses = []
    for nn, p in [(nn_a, b), (nn_b, a)]:
        logits = F.normalize(nn, dim=1) @ F.normalize(p, dim=1).T / settings["tau"]
        losses.append(F.cross_entropy(logits, torch.arange(len(p))))
    return sum(losses) / 2


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
