"""References of the optimisers and schedules, for crates/metamask-optim/tests/fixtures.

    python optimisers.py OUT_DIR

SGD, Adam and AdamW are torch.optim's; LARS is written from its formula (You et
al. 2017, in the form that solo-learn's class documents), for torch has none.
Fifty steps in f64 with given gradients and rates. One weight begins at 0, one
has no gradient in the first steps.

    start.NAME, rates, gradients.NAME     what goes in; gradients are [50, ...]
    CASE.STEP.NAME                        parameters after STEP steps
    CASE.state.BUFFER.NAME                what the optimiser remembers at the end
    schedule.NAME                         learning rates, one a tick

Needs torch and safetensors.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

STEPS, SHOWN = 50, (1, 2, 10, 50)
SHAPES = {
    "conv.weight": (4, 3, 2, 2),  # PyTorch's layout; the test has [2, 2, 3, 4]
    "bn.weight": (4,),
    "bn.bias": (4,),
    "zero.weight": (3, 4),
    "fc.weight": (5, 3),
    "fc.bias": (5,),
}
DECAY = 1e-2


class Lars:
    """s = eta |p| / (|g| + decay |p| + eps), d = s (g + decay p), V = mu V + d, p -= lr V."""

    def __init__(self, parameters, eta, momentum, nesterov=False, clip=False, exclude=True, eps=1e-8):
        self.parameters, self.eta, self.momentum, self.eps = parameters, eta, momentum, eps
        self.nesterov, self.clip, self.exclude = nesterov, clip, exclude
        self.param_groups = [{"lr": 0.0}]
        self.state = {p: {"momentum_buffer": torch.zeros_like(p)} for p in parameters}

    @torch.no_grad()
    def step(self):
        rate = self.param_groups[0]["lr"]
        for p in self.parameters:
            g, p_norm, g_norm = p.grad, p.square().sum().sqrt(), p.grad.square().sum().sqrt()
            d = g
            if not (self.exclude and p.dim() == 1) and p_norm > 0 and g_norm > 0:
                local = self.eta * p_norm / (g_norm + DECAY * p_norm + self.eps)
                if self.clip:
                    local = torch.clamp(local / rate, max=1.0)
                d = local * (g + DECAY * p)
            v = self.state[p]["momentum_buffer"]
            v.copy_(self.momentum * v + d)
            p -= rate * (d + self.momentum * v if self.nesterov else v)


CASES = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=1.0, momentum=0.9, weight_decay=DECAY),
    "sgd-nesterov": lambda ps: torch.optim.SGD(ps, lr=1.0, momentum=0.8, weight_decay=DECAY, nesterov=True),
    "lars": lambda ps: Lars(ps, eta=0.05, momentum=0.9),
    "lars-clipped": lambda ps: Lars(ps, eta=0.1, momentum=0.9, clip=True),
    "lars-nesterov": lambda ps: Lars(ps, eta=0.05, momentum=0.8, nesterov=True, exclude=False),
    "adam": lambda ps: torch.optim.Adam(ps, lr=1.0, betas=(0.8, 0.99), eps=1e-7, weight_decay=DECAY),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY),
}  # fmt: skip
BUFFERS = {"momentum_buffer": "velocity", "exp_avg": "first_moment", "exp_avg_sq": "second_moment"}


def optimisers():
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = {name: 0.5 * normal(*shape) for name, shape in SHAPES.items()}
    start["zero.weight"].zero_()
    gradients = {name: normal(STEPS, *shape) for name, shape in SHAPES.items()}
    gradients["fc.weight"][:2] = 0.0
    rates = 0.1 * (1.1 + torch.sin(torch.arange(STEPS, dtype=torch.float64)))
    tensors = {"rates": rates}
    tensors |= {f"start.{name}": tensor for name, tensor in start.items()}
    tensors |= {f"gradients.{name}": tensor for name, tensor in gradients.items()}
    for case, make in CASES.items():
        parameters = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        optimiser = make(list(parameters.values()))
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = rates[step].item()
            for name, p in parameters.items():
                p.grad = gradients[name][step].clone()
            optimiser.step()
            if step + 1 in SHOWN:
                tensors |= {f"{case}.{step + 1}.{n}": p.detach().clone() for n, p in parameters.items()}
        for name, p in parameters.items():
            for theirs, ours in BUFFERS.items():
                if theirs in optimiser.state[p]:
                    tensors[f"{case}.state.{ours}.{name}"] = optimiser.state[p][theirs]
    return tensors


def rates_of(schedule, ticks, base):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = schedule(optimiser)
    rates = []
    for _ in range(ticks):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def warmup_cosine(optimiser, ticks, warmup, start, minimum):
    rise = LinearLR(optimiser, start_factor=start, total_iters=warmup)
    fall = CosineAnnealingLR(optimiser, T_max=ticks - warmup, eta_min=minimum)
    return SequentialLR(optimiser, [rise, fall], milestones=[warmup])


def schedules():
    """Base rate 0.4; 12 epochs of 5 steps."""
    return {
        "cosine-epochs": rates_of(lambda o: CosineAnnealingLR(o, T_max=12), 12, 0.4),
        "cosine-steps": rates_of(lambda o: CosineAnnealingLR(o, T_max=60, eta_min=0.01), 60, 0.4),
        "warmup-cosine-steps": rates_of(lambda o: warmup_cosine(o, 60, 15, 0.1, 0.01), 60, 0.4),
        "warmup-cosine-epochs": rates_of(lambda o: warmup_cosine(o, 12, 3, 0.25, 0.0), 12, 0.4),
        "step-epochs": rates_of(lambda o: MultiStepLR(o, milestones=[6, 9], gamma=0.2), 12, 0.4),
    }


def main(out_dir):
    tensors = optimisers()
    tensors |= {f"schedule.{name}": rates for name, rates in schedules().items()}
    path = pathlib.Path(out_dir) / "optimisers.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


if __name__ == "__main__":
    main(sys.argv[1])
