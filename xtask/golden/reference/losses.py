"""The six base losses, from the papers' formulas, without a thought for overflow.

Each takes two views' embeddings (predictions where there is a predictor), `[N, P]`;
`others`, the targets (BYOL) or neighbours (NNCLR) of both, which the rest do not look at;
and the settings `lambda`, `tau`, `tau_plus`, `beta`.
"""

import math

import torch
import torch.nn.functional as F


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
