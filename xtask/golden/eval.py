"""Reference of the linear probe, for crates/metamask-eval/tests/fixtures.

    python eval.py OUT_DIR

Overlapping normal clusters; the penalised multinomial logistic regression on
standardised features is solved by Newton's method with the Hessian that
PyTorch derives from the written-out objective, in f64, until the gradient is
below 1e-14. Needs torch and safetensors.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

N, DIM, CLASSES, PENALTY = 120, 5, 3, 0.02


def main(out_dir):
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(CLASSES, (N,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0, 0.5], dtype=torch.float64)
    noise = torch.randn(N, DIM, generator=generator, dtype=torch.float64)
    features = (centres[labels] + noise) * scale + 4.0

    x = (features - features.mean(0)) / features.std(0, unbiased=False)

    def objective(point):
        weight, bias = point[: CLASSES * DIM].reshape(CLASSES, DIM), point[CLASSES * DIM :]
        scores = x @ weight.T + bias
        fit = (scores.logsumexp(1) - scores[torch.arange(N), labels]).mean()
        return fit + PENALTY / 2 * weight.square().sum()

    point = torch.zeros(CLASSES * (DIM + 1), dtype=torch.float64)
    for _ in range(50):
        gradient = torch.func.grad(objective)(point)
        if gradient.abs().max() < 1e-14:
            break
        # Equal shifts of every bias change nothing: the Hessian is singular
        # along them, and the pseudo-inverse takes the shortest step.
        hessian = torch.func.hessian(objective)(point)
        point = point - torch.linalg.pinv(hessian, hermitian=True) @ gradient
    assert gradient.abs().max() < 1e-14, gradient

    save_file(
        {
            "features": features,
            "labels": labels.to(torch.uint32),
            "penalty": torch.tensor([PENALTY], dtype=torch.float64),
            "weight": point[: CLASSES * DIM].clone(),
            "bias": point[CLASSES * DIM :].clone(),
            "loss": objective(point).reshape(1),
        },
        pathlib.Path(out_dir) / "linear_probe.safetensors",
    )


if __name__ == "__main__":
    main(sys.argv[1])
