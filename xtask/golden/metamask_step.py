"""Three iterations of MetaMask, step by step, for crates/metamask-train/tests/fixtures.

    python metamask_step.py OUT_DIR

Written from docs/method.md ("One iteration"): float64, one thread, PyTorch's autograd for
everything. The exact hypergradient is what autograd finds through the virtual step
theta'(w) (create_graph), not the formula for it; that both agree is asserted. Network and
losses are in reference/: a ResNet-18 with CIFAR stem of base width 2 (16 features), heads
of three and two layers, batches of 16 images of 12 x 12.

All initial parameters are PyTorch's default ones times SCALE (norms spread a little, so that
no number rests at 0 or 1). Before a batch norm scale does not matter, so this divides the
effective learning rate by SCALE squared: without it a net as narrow as this leaps at rate
0.05, and amplifies the rounding of f32 beyond any tolerance.

The seed was chosen for f32: of those from 26 to 79 it is the first at which PyTorch's f32
agrees with the files within 8e-5 in every case (d and the second-order term relative to |G|),
so that its rounding takes no ReLU over its kink, and at which every fault shows. That holds
for one way of rounding: the nearest ReLU is within 1e-6 of its kink. The tests therefore
start every iteration in f32 where f64 is; with METAMASK_KERNEL=portable DCL's second one
crosses a kink all the same. The neighbours at theta' are not all those at theta.

metamask_step_start.safetensors, float32 (exact in either precision):

    view_a.T, view_b.T      the views of iteration T = 0, 1, 2, NHWC
    model.NAME              initial parameters and running statistics of all heads; BYOL's
                            target starts as the online network
    model.queue.entries     NNCLR's queue, [40, 10]; and queue.pointer, int64

metamask_step_WHAT_STEP_HYPERGRADIENT[_no-drr].safetensors, float64. WHAT is

    shows                   SimCLR at rates at which every term shows
    authors                 SimCLR at the authors' rates
    nesterov                `shows` with Nesterov's momentum for the network
    through-base            `shows`, but the lookahead goes through alpha B alone
    barlow-twins, byol, dcl, hcl, nnclr     `shows` with another base method

STEP is `after-regular`, `shared` or `lookahead`, HYPERGRADIENT `first-order`,
`finite-difference` or `exact`. `_no-drr`, and Barlow Twins: L = alpha B, no head for L_drr.

    learning_rate, mask_rate, momentum, weight_decay, alpha, lambda, tau, tau_plus,
    beta, target_momentum   scalars
    T.loss, T.loss_base     losses L and B of iteration T's regular step
    T.loss_drr              likewise
    T.meta_loss             B(theta', w); for a lookahead theta' is this iteration's theta
    T.direct                d = dB/dw at theta'
    T.second_order          how B moves with the w that theta' depends on; absent from first-order
    T.total                 G = direct + second_order
    T.w                     the mask's logits after the iteration
    T.wrong.FAULT           G with a fault, where it shows (see `faulty`); not at the authors' rates
    model.NAME              at the end: parameters, running statistics, BYOL's target.NAME,
                            queue.entries and queue.pointer
    velocity.NAME           momentum buffers at the end
    w_velocity              the mask's

The meta keys of T = 0 are absent where a lookahead has no step to judge yet. Tensors at the
end are flattened, and of those with more than 64 numbers every seventh is kept. NAME is
PyTorch's. The mask starts at w = 0, the momentum buffers at 0. The heads see m * h with
m = sigmoid(w).

Needs torch and safetensors; the committed files were made with torch 2.15.0 on the CPU.
"""

import itertools
import math
import pathlib
import sys
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from reference import losses
from reference.network import BATCH, HEADS, WIDTHS, State, draw_views, encoder, head
from safetensors.torch import save_file

ITERATIONS, CAPACITY = 3, 40  # the queue's end lies within the third batch
SEED, SCALE = 79, 24.0

SHOWS = {
    "learning_rate": 0.05, "mask_rate": 2.0, "momentum": 0.9, "weight_decay": 5e-4,
    "alpha": 1.0, "lambda": 5e-3, "tau": 0.5, "tau_plus": 0.1, "beta": 1.0, "target_momentum": 0.9,
}  # fmt: skip
AUTHORS = SHOWS | {"learning_rate": 1e-3, "mask_rate": 1e-3, "alpha": 10.0, "tau": 0.07}
BASE_LOSSES = {
    "simclr": losses.nt_xent,
    "barlow-twins": losses.barlow_twins,
    "byol": losses.byol_cosine,
    "dcl": losses.debiased_nt_xent,
    "hcl": losses.hard_negative_nt_xent,
    "nnclr": losses.nearest_neighbour_nt_xent,
}


@dataclass(frozen=True)
class Case:
    what: str
    step: str
    hypergradient: str
    with_drr: bool = True
    method: str = "simclr"

    @property
    def name(self):
        no_drr = "" if self.with_drr or self.method == "barlow-twins" else "_no-drr"
        return f"metamask_step_{self.what}_{self.step}_{self.hypergradient}{no_drr}"

    @property
    def numbers(self):
        return AUTHORS if self.what == "authors" else SHOWS

    @property
    def head(self):
        return "redundancy_head" if self.method == "barlow-twins" else "contrastive_head"

    @property
    def has_predictor(self):
        return self.method in ("byol", "nnclr")

    def base_part(self, tensors):
        """What B depends on."""
        heads = [self.head] + ["predictor"] * self.has_predictor
        return {k: x for k, x in tensors.items() if k.split(".")[0] in ["encoder", *heads]}

    def part(self, tensors):
        """What L depends on."""
        redundancy = {k: x for k, x in tensors.items() if self.with_drr and k.startswith("redundancy_head")}
        return self.base_part(tensors) | redundancy


def cases():
    steps, methods = ["after-regular", "shared", "lookahead"], ["finite-difference", "exact"]
    for step in steps:
        for hypergradient in methods:
            yield Case("shows", step, hypergradient)
            yield Case("shows", step, hypergradient, with_drr=False)
            yield Case("authors", step, hypergradient)
        yield Case("shows", step, "first-order")
    for step, method in itertools.product(["shared", "lookahead"], list(BASE_LOSSES)[1:]):
        yield Case(method, step, "exact", with_drr=method != "barlow-twins", method=method)
    yield Case("nesterov", "shared", "exact")
    yield Case("nesterov", "lookahead", "exact")
    yield Case("through-base", "lookahead", "exact")


# Losses.


@dataclass
class Batch:
    """Two views, and what the base loss takes as given beside them in this iteration."""

    views: list
    targets: list  # of both views, BYOL's
    queue: torch.Tensor  # NNCLR's entries
    uncut: tuple  # w and the targets as a function of it, for the fault of not cutting there


def masked_features(p, running, w, views):
    """The views go through separately."""
    return [torch.sigmoid(w) * encoder(p, running, x) for x in views]


def embed(case, p, running, masked):
    return [head(p, running, case.head, x) for x in masked]


def base_loss(case, p, running, masked, batch):
    """B, and the embedding of view a."""
    z_a, z_b = embed(case, p, running, masked)
    others = batch.targets
    if case.method == "nnclr":
        # Chosen anew by every pass.
        cosines = [F.normalize(z.detach(), dim=1) @ batch.queue.T for z in (z_a, z_b)]
        others = [batch.queue[c.argmax(1)] for c in cosines]
    p_a, p_b = (head(p, running, "predictor", z) if case.has_predictor else z for z in (z_a, z_b))
    return BASE_LOSSES[case.method](p_a, p_b, others, case.numbers), z_a.detach()


def redundancy_loss(case, p, running, masked):
    z_a, z_b = [head(p, running, "redundancy_head", x) for x in masked]
    return losses.barlow_twins(z_a, z_b, None, case.numbers)


def meta_loss(case, p, w, batch):
    """B in a meta pass: it leaves no running statistics behind."""
    return base_loss(case, p, None, masked_features(p, None, w, batch.views), batch)[0]


# The algorithm.


def tracked(tensors):
    return {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}


def leaf(w):
    return w.detach().clone().requires_grad_()


def gradient(loss, p, **options):
    return dict(zip(p, torch.autograd.grad(loss, list(p.values()), materialize_grads=True, **options)))


def descent(case, p, g, velocity, momentum=None):
    """SGD's step as a function of g, with the velocities as they are."""
    mu = case.numbers["momentum"] if momentum is None else momentum
    rate, moved = case.numbers["learning_rate"], {}
    for k, x in p.items():
        decayed = g[k] + case.numbers["weight_decay"] * x
        v = mu * velocity[k] + decayed
        moved[k] = x - rate * (decayed + mu * v if case.what == "nesterov" else v)
    return moved


def sgd(p, g, velocity, rate, numbers, nesterov=False):
    """torch.optim.SGD's step, with its momentum buffer in our hands."""
    leaves = [x.detach().clone() for x in p.values()]
    momentum, decay = numbers["momentum"], numbers["weight_decay"]
    optimizer = torch.optim.SGD(leaves, lr=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    for x, name in zip(leaves, p):
        x.grad = g[name].clone()
        optimizer.state[x]["momentum_buffer"] = velocity[name].clone()
    optimizer.step()
    return dict(zip(p, leaves)), {k: optimizer.state[x]["momentum_buffer"] for k, x in zip(p, leaves)}


@dataclass
class Departure:
    """Where a step started and on what it was taken."""

    p: dict
    velocity: dict
    w: torch.Tensor
    batch: Batch


@dataclass
class Meta:
    loss: torch.Tensor
    direct: torch.Tensor
    at: dict
    v: dict
    second_order: torch.Tensor | None = None

    @property
    def total(self):
        return self.direct if self.second_order is None else self.direct + self.second_order


def descended(case, p, w, batch, base_only=None):
    """The loss that the step to theta' goes down, as far as its dependence on w counts, and
    the rest of it: a lookahead's is the regular step, the others' goes down B alone."""
    base_only = case.what == "through-base" if base_only is None else base_only
    if case.step != "lookahead":
        return meta_loss(case, p, w, batch), 0
    masked = masked_features(p, None, w, batch.views)
    base = case.numbers["alpha"] * base_loss(case, p, None, masked, batch)[0]
    redundancy = redundancy_loss(case, p, None, masked) if case.with_drr else 0
    if base_only:
        return base, redundancy
    return base + redundancy, 0


def mixed_product(method, loss, p, w, v):
    """d2 loss(p, w) / dw dtheta v."""
    p, w = tracked(p), leaf(w)
    if method == "exact":
        g = gradient(loss(p, w), p, create_graph=True)
        return torch.autograd.grad(sum((g[k] * v[k]).sum() for k in p), w)[0]
    r = 0.01 / math.sqrt(sum(x.square().sum().item() for x in v.values()))

    def w_gradient(step):
        return torch.autograd.grad(loss({k: p[k].detach() + step * v[k] for k in p}, w), w)[0]

    return (w_gradient(r) - w_gradient(-r)) / (2 * r)


def effective_rate(case, momentum=None):
    """How far theta' moves against the gradient."""
    mu = case.numbers["momentum"] if momentum is None else momentum
    return case.numbers["learning_rate"] * (1 + mu if case.what == "nesterov" else 1)


def judged(case, p, w, batch):
    """M3 at p, cut off from how it came about: B, d and v."""
    p, w = tracked(p), leaf(w)
    loss = meta_loss(case, p, w, batch)
    d, *v = torch.autograd.grad(loss, [w, *p.values()], materialize_grads=True)
    return Meta(loss.detach(), d, p, dict(zip(p, v)))


def hypergradient(case, departure, w, batch, momentum=None):
    """M1 to M4: the step from `departure` is judged under w on `batch`."""
    of = case.part if case.step == "lookahead" else case.base_part
    departure = Departure(of(departure.p), of(departure.velocity), departure.w, departure.batch)
    p, w_then = tracked(departure.p), leaf(departure.w)

    # M1, M2. The graph of g is kept: theta' is a function of w_then.
    loss, rest = descended(case, p, w_then, departure.batch)
    g = gradient(loss, p, create_graph=True)
    if torch.is_tensor(rest):
        g_rest = gradient(rest, p, retain_graph=True)
        g = {k: g[k] + g_rest[k].detach() for k in p}
    p_virtual = descent(case, p, g, departure.velocity, momentum)

    # M3, M4
    meta = judged(case, p_virtual, w, batch)
    if case.hypergradient == "first-order":
        return meta

    def through(p, w):
        return descended(case, p, w, departure.batch)[0]

    product = mixed_product(case.hypergradient, through, departure.p, departure.w, meta.v)
    meta.second_order = -effective_rate(case, momentum) * product
    if case.hypergradient == "exact":
        through_everything = torch.autograd.grad(meta_loss(case, p_virtual, w, batch), w_then)[0]
        assert torch.allclose(meta.second_order, through_everything, rtol=1e-11, atol=1e-13)
        meta.second_order = through_everything
    return meta


def faulty(case, departure, w, batch, meta):
    """G with one fault each, where that shows."""
    is_lookahead = case.step == "lookahead"

    def total(v=meta.v, w_then=departure.w, on=departure.batch, base_only=None):
        def loss(p, w):
            return descended(case, p, w, on, base_only)[0]

        p = {k: x for k, x in departure.p.items() if k in meta.v}
        product = mixed_product(case.hypergradient, loss, p, w_then, v)
        return meta.direct - effective_rate(case) * product

    at_theta = {k: x for k, x in departure.p.items() if k in meta.v}
    v_at_theta = judged(case, at_theta, departure.w, departure.batch).v
    found = {
        "second order dropped": meta.direct,
        "sign flipped": meta.direct - meta.second_order,
        "v at theta": total(v=v_at_theta),
    }
    if case.what == "nesterov":
        factor = effective_rate(case) / case.numbers["learning_rate"]
        found["Nesterov's factor left out"] = meta.direct + meta.second_order / factor
    if case.method == "byol":
        w_seen, targets = batch.uncut
        loss = meta_loss(case, meta.at, w, replace(batch, targets=targets))
        found["a gradient through the target"] = meta.total + torch.autograd.grad(loss, w_seen)[0]
    if not is_lookahead and any(x.any() for x in departure.velocity.values()):
        without = hypergradient(case, departure, w, batch, momentum=0.0)
        found["momentum left out of the virtual step"] = without.total
    if is_lookahead:
        found["step taken on the judging batch"] = total(on=batch)
        if case.what == "through-base":
            found["through all of L"] = total(base_only=False)
        elif case.with_drr:
            found["through alpha B alone"] = total(base_only=True)
        # Through B alone the term is too small for this.
        if case.what != "through-base" and not torch.equal(w, departure.w):
            found["step taken under the judging mask"] = total(w_then=w)
    return found


def run(case, start, views):
    """All iterations of one case; returns what the file holds, and the second order's shares."""
    numbers, nesterov = case.numbers, case.what == "nesterov"
    p = case.part(start.p)
    running = case.part({k: x.clone() for k, x in start.running.items()})
    velocity = {k: torch.zeros_like(x) for k, x in p.items()}
    w = {"w": torch.zeros(WIDTHS[-1], dtype=start.queue.dtype)}
    w_velocity = {"w": torch.zeros_like(w["w"])}
    target = {k: x for k, x in p.items() if k.startswith(("encoder.", case.head))}
    queue, pointer = start.queue, 0
    out = {k: torch.tensor(x, dtype=torch.float64) for k, x in numbers.items()}
    before, shares = None, []

    for t, pair in enumerate(views):
        # BYOL's target sees the mask; nothing goes back through it.
        seen = leaf(w["w"])
        targets = embed(case, target, None, masked_features(target, None, seen, pair))
        batch = Batch(pair, [x.detach() for x in targets], queue, (seen, targets))

        # R1. What L leaves on w is discarded.
        leaves = tracked(p)
        masked = masked_features(leaves, running, w["w"], pair)
        base, z_a = base_loss(case, leaves, running, masked, batch)
        drr = redundancy_loss(case, leaves, running, masked) if case.with_drr else 0
        loss = numbers["alpha"] * base + drr
        g = gradient(loss, leaves)
        out |= {f"{t}.loss": loss, f"{t}.loss_base": base}
        out |= {f"{t}.loss_drr": drr} if case.with_drr else {}

        # R2
        here = Departure(p, velocity, w["w"], batch)
        p, velocity = sgd(p, g, velocity, numbers["learning_rate"], numbers, nesterov)
        there = Departure(p, velocity, w["w"], batch)

        # M1 to M4: they change neither running statistics nor momentum.
        kept = [{k: x.clone() for k, x in state.items()} for state in (running, p, velocity)]
        departure = {"shared": here, "after-regular": there, "lookahead": before}[case.step]
        before = here
        if case.step == "lookahead" and case.hypergradient == "first-order":
            meta = judged(case, here.p, w["w"], batch)
        elif departure is None:
            meta = None
        else:
            meta = hypergradient(case, departure, w["w"], batch)
            if case.step == "lookahead":
                close = [torch.allclose(meta.at[k], here.p[k], rtol=1e-5, atol=1e-6) for k in p]
                assert all(close), "the virtual step is not the regular one"
        if meta and meta.second_order is not None:
            shares.append((meta.second_order.norm() / meta.total.norm()).item())
            out[f"{t}.second_order"] = meta.second_order
            if case.what != "authors":
                faults = faulty(case, departure, w["w"], batch, meta)
                out |= {f"{t}.wrong.{fault}": wrong for fault, wrong in faults.items()}
        for then, now in zip(kept, (running, p, velocity)):
            assert all(torch.equal(then[k], now[k]) for k in now), "a meta pass left a trace"

        # M5
        if meta:
            w, w_velocity = sgd(w, {"w": meta.total}, w_velocity, numbers["mask_rate"], numbers)
            out |= {f"{t}.meta_loss": meta.loss, f"{t}.direct": meta.direct, f"{t}.total": meta.total}
        out[f"{t}.w"] = w["w"]

        # What the base method keeps.
        tau = numbers["target_momentum"]
        target = {k: tau * x + (1 - tau) * p[k] for k, x in target.items()}
        if case.method == "nnclr":
            queue = queue.clone()
            queue[(pointer + torch.arange(BATCH)) % CAPACITY] = F.normalize(z_a, dim=1)
            pointer = (pointer + BATCH) % CAPACITY

    at_the_end = {**p, **running}
    if case.method == "byol":
        at_the_end |= {f"target.{k}": x for k, x in target.items()}
    if case.method == "nnclr":
        at_the_end |= {"queue.entries": queue, "queue.pointer": torch.tensor([pointer])}
    out |= {f"model.{k}": thinned(x) for k, x in at_the_end.items()}
    out |= {f"velocity.{k}": thinned(x) for k, x in velocity.items()}
    out["w_velocity"] = w_velocity["w"]
    return {k: x.detach() for k, x in out.items()}, shares


def thinned(x):
    return x.flatten()[::7] if x.numel() > 64 else x.flatten()


def check_that_it_shows(case, out, shares):
    """A comparison with this case would notice a fault."""
    moved = out[f"{ITERATIONS - 1}.w"].abs().max().item()
    print(f"{case.name}: second-order share {', '.join(f'{s:.2g}' for s in shares)}; |w| up to {moved:.2g}")
    if case.what == "authors":
        return
    assert moved > 0.1, "the mask does not move"
    for key in [k for k in out if ".wrong." in k]:
        right = out[f"{key.split('.')[0]}.total"]
        assert (out[key] - right).norm() > 1.1e-2 * right.norm(), f"`{key}` does not show"


def draw():
    """Initial state with NNCLR's queue, and the views of every iteration."""
    generator = torch.Generator().manual_seed(SEED)
    start = State(generator, SCALE)
    start.add_encoder()
    start.add_head("redundancy_head")
    start.add_head("contrastive_head")
    views = [draw_views(generator) for _ in range(ITERATIONS)]
    start.add_head("predictor")
    queue = torch.randn(CAPACITY, HEADS["contrastive_head"][-1], generator=generator, dtype=torch.float64)
    start.queue = F.normalize(queue, dim=1).float().double()
    return start, views


def write(path, tensors):
    save_file({k: x.contiguous().clone() for k, x in tensors.items()}, path)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    start, views = draw()

    state = {f"model.{k}": x.float() for k, x in {**start.p, **start.running}.items()}
    state |= {"model.queue.entries": start.queue.float(), "model.queue.pointer": torch.tensor([0])}
    for t, pair in enumerate(views):
        for letter, x in zip("ab", pair):
            state[f"view_{letter}.{t}"] = x.permute(0, 2, 3, 1).float()
    write(folder / "metamask_step_start.safetensors", state)

    for case in cases():
        out, shares = run(case, start, views)
        check_that_it_shows(case, out, shares)
        write(folder / f"{case.name}.safetensors", out)


if __name__ == "__main__":
    main()
