"""Reference of the dimension diagnostics, for crates/metamask-eval/tests/fixtures.

    python diagnostics.py OUT_DIR

Each measure from its definition, in f64 and in as few steps as NumPy allows: singular
values of the features themselves, NumPy's correlation matrix, loops over groups, a
dimension deleted before kNN. Needs numpy and safetensors.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

N, DIM, CLASSES, BINS, K, T, TAU, BATCH = 90, 8, 3, 4, 5, 0.2, 0.3, 20


def entropy_rank(shares):
    shares = shares[shares > 0]
    return np.exp(-(shares * np.log(shares)).sum())


def effective_rank(x):
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return entropy_rank(s / s.sum())


def rank_me(x):
    s = np.linalg.svd(x, compute_uv=False)
    return entropy_rank(s / s.sum() + 1e-7)


def spectrum(x):
    return np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]


def alpha_req(values, first, last):
    rank = np.arange(first, last + 1)
    # numpy's weights multiply the residual before it is squared.
    slope, offset = np.polyfit(np.log(rank), np.log(values[first - 1 : last]), 1, w=rank**-0.5)
    return np.array([-slope, offset])


def variance_share(x, groups):
    between = np.zeros(x.shape[1])
    for g in np.unique(groups):
        between += (groups == g).sum() * (x[groups == g].mean(0) - x.mean(0)) ** 2
    total = ((x - x.mean(0)) ** 2).sum(0)
    return np.where(total > 1e-20, between / np.maximum(total, 1e-20), 0.0)


def joint_variance_share(x, *factors):
    indicators = np.concatenate([np.eye(f.max() + 1)[f] for f in factors], axis=1)
    design = np.column_stack([np.ones(len(x)), indicators])
    rest = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    total = ((x - x.mean(0)) ** 2).sum(0)
    return np.where(total > 1e-20, 1 - (rest**2).sum(0) / np.maximum(total, 1e-20), 0.0)


def conditional_variance(x, y):
    return sum((y == c).mean() * x[y == c].var(0) for c in np.unique(y))


def information(column, y):
    below = np.array([(column < v).sum() for v in column])
    b = BINS * below // len(column)

    def entropy(keys):
        _, counts = np.unique(keys, return_counts=True)
        p = counts / counts.sum()
        return -(p * np.log(p)).sum() + (len(p) - 1) / (2 * len(keys))

    return entropy(b) + entropy(y) - entropy(b * CLASSES + y)


def knn(bank, bank_y, queries, y):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit(queries) @ unit(bank).T
    right, votes = [], []
    for row, label in zip(cosines, y):
        nearest = np.argsort(-row, kind="stable")[:K]
        weights = np.exp(row[nearest] / T)
        share = np.array([weights[bank_y[nearest] == c].sum() for c in range(CLASSES)])
        right.append(share.argmax() == label)
        votes.append(share[label] / share.sum())
    return 100 * np.mean(right), 100 * np.mean(votes)


def mean_ranks(v):
    return np.array([(v < x).sum() + ((v == x).sum() + 1) / 2 for x in v])


def spearman(a, b):
    return np.corrcoef(mean_ranks(a), mean_ranks(b))[0, 1]


def auc(scores, member):
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[member] for t in scores[~member]]
    return np.mean(pairs)


def risk_bounds(z_a, z_b, y):
    n = len(y) // BATCH * BATCH
    u = [z[:n] / np.linalg.norm(z[:n], axis=1, keepdims=True) / np.sqrt(TAU) for z in (z_a, z_b)]
    y = y[:n]
    contrastive, nt_xent = [], []
    for first in range(0, n, BATCH):
        for own, other in ((0, 1), (1, 0)):
            for i in range(first, first + BATCH):
                anchor = u[own][i]
                positive = anchor @ u[other][i]
                negatives = [
                    anchor @ u[view][j]
                    for view in (0, 1)
                    for j in range(first, first + BATCH)
                    if j != i
                ]
                assert len(negatives) == 2 * BATCH - 2
                contrastive.append(np.log(np.exp(negatives).sum()) - positive)
                nt_xent.append(np.log(np.exp(negatives + [positive]).sum()) - positive)
    both, y = np.concatenate(u), np.concatenate([y, y])
    means = np.array([both[y == c].mean(0) for c in range(CLASSES)])
    scores = both @ means.T
    cross_entropy = (np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]).mean()
    within = conditional_variance(both, y)
    variance, deviations = within.sum(), np.sqrt(within).sum()
    c = np.mean(contrastive)
    middle = cross_entropy + np.log((2 * BATCH - 2) / CLASSES)
    printed = [c - variance**0.5 - deviations / 2, c - variance**0.5 - variance / 2, c + variance**0.5]
    # The same with everything taken on the unit sphere: z / |z| has TAU times the variance.
    v, d = TAU * variance, TAU**0.5 * deviations
    unit = [
        c - v**0.5 / TAU - d / (2 * TAU**2),
        c - v**0.5 / TAU - v / (2 * TAU**2),
        c + v**0.5 / TAU,
    ]
    terms = [c, np.mean(nt_xent), cross_entropy, variance, deviations, middle]
    return np.array(terms), np.array(printed), np.array(unit)


def main(out_dir):
    rng = np.random.default_rng(5)
    y = rng.integers(CLASSES, size=N)
    hue = rng.integers(4, size=N)
    tone = (hue + rng.integers(2, size=N)) % 4  # tied to the hue
    x = rng.normal(size=(N, DIM)) * np.array([3.0, 1.0, 1.0, 0.5, 0.2, 0.1, 1.0, 1.0]) + 1.0
    x[:, 0] += 2.0 * y
    x[:, 1] += hue
    x[:, 2] = np.maximum(x[:, 2] - 1.0, 0.0)  # many equal values, as behind a ReLU
    x[:, 3] += 0.5 * x[:, 0]
    x[:, 7] = 0.25  # constant
    varies = np.arange(DIM) != 7
    correlation = np.zeros((DIM, DIM))
    correlation[np.ix_(varies, varies)] = np.abs(np.corrcoef(x[:, varies].T))
    off = correlation[np.ix_(varies, varies)][~np.eye(DIM - 1, dtype=bool)]

    bank, queries = slice(0, 60), slice(60, N)
    all_of_them = knn(x[bank], y[bank], x[queries], y[queries])
    without = [
        knn(np.delete(x[bank], k, 1), y[bank], np.delete(x[queries], k, 1), y[queries])
        for k in range(DIM)
    ]
    drops = np.array(all_of_them) - np.array(without)

    a = np.round(rng.normal(size=40), 1)
    b = np.round(0.5 * a + rng.normal(size=40), 1)

    class_axes = rng.normal(size=(CLASSES, 6))
    view = lambda: 2.0 * class_axes[y] + rng.normal(size=(N, 6))
    z_a, z_b = view(), view()
    terms, printed, unit = risk_bounds(z_a, z_b, y)

    eigenvalues = spectrum(x)
    numbers = {
        "features": x,
        "effective_rank": effective_rank(x),
        "rank_me": rank_me(x),
        "participation_ratio": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        "spectrum": eigenvalues,
        "alpha_req": alpha_req(eigenvalues, 2, 6),
        "correlation": correlation,
        "mean_correlation": off.mean(),
        "class_share": variance_share(x, y),
        "hue_share": variance_share(x, hue),
        "hue_and_tone_share": joint_variance_share(x, hue, tone),
        "conditional_variance": conditional_variance(x, y),
        "information": np.array([information(x[:, k], y) for k in range(DIM)]),
        "knn": np.array(all_of_them),
        "accuracy_drop": drops[:, 0],
        "vote_drop": drops[:, 1],
        "a": a,
        "b": b,
        "spearman": spearman(a, b),
        "auc": auc(a, b > 0),
        "z_a": z_a,
        "z_b": z_b,
        "bound_terms": terms,
        "bounds_printed": printed,
        "bounds_unit": unit,
    }
    tensors = {k: np.ascontiguousarray(np.atleast_1d(np.float64(v))) for k, v in numbers.items()}
    tensors |= {"labels": y.astype(np.uint32), "hue": hue.astype(np.uint32)}
    tensors["tone"] = tone.astype(np.uint32)
    save_file(tensors, pathlib.Path(out_dir) / "diagnostics.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
