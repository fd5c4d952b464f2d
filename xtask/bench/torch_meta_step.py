"""One iteration of SimCLR + MetaMask in PyTorch, ResNet-18 (CIFAR stem, full width), f32 on the CPU.

Written from docs/method.md ("One iteration"), with the heads and the losses of the
authors' one public cell. --mode is

    plain          the regular step alone, no mask (with --drr: with L_drr)
    authors        virtual step after the regular one, central differences
    create-graph   virtual step shared, second order by double back-propagation
    jvp            virtual step shared, the encoder's tangent by torch.func.jvp and
                   double back-propagation of the heads alone

Prints one JSON object: the median and the smallest time of an iteration, in ms, and
the peak of the resident memory, in KiB.
"""

import argparse
import json
import math
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jvp

from torch_step import ResNet18

ALPHA, TAU, LAMBDA = 10.0, 0.07, 5e-3
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4


def head(*widths):
    layers = []
    for n_in, n_out in zip(widths[:-1], widths[1:]):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(ResNet18):
    """h = f(x), without the last linear layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Identity()


def nt_xent(z_a, z_b):
    n = len(z_a)
    u = F.normalize(torch.cat([z_a, z_b]), dim=1, eps=1e-12)
    similarity = (u @ u.T / TAU).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def barlow_twins(z_a, z_b):
    n = len(z_a)
    c = ((z_a - z_a.mean(0)) / z_a.std(0)).T @ ((z_b - z_b.mean(0)) / z_b.std(0)) / n
    diagonal = c.diagonal()
    return (1 - diagonal).square().sum() + LAMBDA * (c.square().sum() - diagonal.square().sum())


class Iteration:
    def __init__(self, batch, drr, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.encoder = Encoder().to(memory_format=layout)
        self.contrastive = head(512, 2048, 256)
        self.redundancy = head(512, 2048, 2048, 2048) if drr else None
        self.w = torch.zeros(512, requires_grad=True)
        modules = [self.encoder, self.contrastive] + ([self.redundancy] if drr else [])
        parameters = [p for module in modules for p in module.parameters()]
        options = dict(momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, **options)
        self.mask_optimizer = torch.optim.SGD([self.w], lr=1e-3, **options)
        self.views = [torch.randn(batch, 3, 32, 32).to(memory_format=layout) for _ in range(2)]

    # Passes of the meta step: parameters passed in, running statistics thrown away.

    def names(self):
        return [f"encoder.{k}" for k, _ in self.encoder.named_parameters()] + [
            f"head.{k}" for k, _ in self.contrastive.named_parameters()
        ]

    def theta(self):
        return [*self.encoder.parameters(), *self.contrastive.parameters()]

    def call(self, module, prefix, theta, x):
        parameters = {k.removeprefix(prefix): p for k, p in theta.items() if k.startswith(prefix)}
        buffers = {k: b.clone() for k, b in module.named_buffers()}
        return functional_call(module, {**parameters, **buffers}, (x,))

    def features(self, theta):
        return [self.call(self.encoder, "encoder.", theta, x) for x in self.views]

    def loss_c(self, theta, h, w):
        m = torch.sigmoid(w)
        return nt_xent(*[self.call(self.contrastive, "head.", theta, m * x) for x in h])

    def virtual(self, theta, g):
        state = self.optimizer.state
        velocity = [state[p].get("momentum_buffer") for p in self.theta()]
        velocity = [torch.zeros_like(p) if v is None else v for p, v in zip(self.theta(), velocity)]
        return {
            k: p - LEARNING_RATE * (MOMENTUM * v + d + WEIGHT_DECAY * p)
            for (k, p), v, d in zip(theta.items(), velocity, g)
        }

    def regular(self, masked):
        m = torch.sigmoid(self.w).detach() if masked else None
        h = [self.encoder(x) for x in self.views]
        h = [m * x for x in h] if masked else h
        loss = ALPHA * nt_xent(*map(self.contrastive, h))
        if self.redundancy is not None:
            loss = loss + barlow_twins(*map(self.redundancy, h))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def move_mask(self, gradient):
        self.w.grad = gradient.detach()
        self.mask_optimizer.step()

    def leaves(self):
        return {k: p.detach().requires_grad_() for k, p in zip(self.names(), self.theta())}

    def plain(self):
        self.regular(masked=False)

    def authors(self):
        self.regular(masked=True)
        theta = self.leaves()
        g = torch.autograd.grad(self.loss_c(theta, self.features(theta), self.w), theta.values())
        virtual = {k: p.detach().requires_grad_() for k, p in self.virtual(theta, g).items()}
        loss = self.loss_c(virtual, self.features(virtual), self.w)
        *v, d = torch.autograd.grad(loss, [*virtual.values(), self.w])
        r = 0.01 / math.sqrt(sum(x.square().sum().item() for x in v))

        def w_gradient(step):
            with torch.no_grad():
                moved = {k: p + step * x for (k, p), x in zip(theta.items(), v)}
                h = self.features(moved)
            return torch.autograd.grad(self.loss_c(moved, h, self.w), self.w)[0]

        self.move_mask(d - LEARNING_RATE * (w_gradient(r) - w_gradient(-r)) / (2 * r))

    def create_graph(self):
        theta = self.leaves()
        loss = self.loss_c(theta, self.features(theta), self.w)
        g = torch.autograd.grad(loss, theta.values(), create_graph=True)
        virtual = self.virtual(theta, g)
        meta_loss = self.loss_c(virtual, self.features(virtual), self.w)
        (total,) = torch.autograd.grad(meta_loss, self.w)
        self.regular(masked=True)
        self.move_mask(total)

    def jvp(self):
        theta = self.leaves()
        loss = self.loss_c(theta, self.features(theta), self.w)
        g = torch.autograd.grad(loss, theta.values())
        virtual = {k: p.detach().requires_grad_() for k, p in self.virtual(theta, g).items()}
        meta_loss = self.loss_c(virtual, self.features(virtual), self.w)
        *v, d = torch.autograd.grad(meta_loss, [*virtual.values(), self.w])
        v = dict(zip(theta, v))
        f = {k: p.detach() for k, p in theta.items() if k.startswith("encoder.")}
        h, h_dot = jvp(lambda f: tuple(self.features(f)), (f,), ({k: v[k] for k in f},))
        h = [x.detach().requires_grad_() for x in h]
        heads = {k: p for k, p in theta.items() if k.startswith("head.")}
        loss = self.loss_c(heads, h, self.w)
        u = torch.autograd.grad(loss, [*h, *heads.values()], create_graph=True)
        slope = sum((x * y).sum() for x, y in zip(u, [*h_dot, *[v[k] for k in heads]]))
        (product,) = torch.autograd.grad(slope, self.w)
        self.regular(masked=True)
        self.move_mask(d - LEARNING_RATE * product)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["plain", "authors", "create-graph", "jvp"], required=True)
    parser.add_argument("--drr", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    iteration = Iteration(args.batch, args.drr, args.channels_last)
    step = getattr(iteration, args.mode.replace("-", "_"))
    times_ms = []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - start) * 1e3)
    times_ms = times_ms[args.warmup :]
    print(json.dumps({
        "median_ms": statistics.median(times_ms),
        "min_ms": min(times_ms),
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
