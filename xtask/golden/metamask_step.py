"""Three iterations of SimCLR + MetaMask, step by step, for crates/metamask-train/tests/fixtures.

    python metamask_step.py OUT_DIR

Written from docs/method.md ("One iteration"): float64, one thread, PyTorch's
autograd for everything, create_graph for the exact hypergradient. A ResNet-18
with CIFAR stem of base width 2 (16 features), heads of three and two layers,
batches of 16 images of 12 x 12.

All initial parameters are PyTorch's default ones times SCALE (norms spread a little,
so that no number rests at 0 or 1). Before a batch norm
scale does not matter, so this divides the effective learning rate by SCALE squared:
without it a net as narrow as this leaps at rate 0.05, and amplifies the rounding
of f32 beyond any tolerance. The seed is one at which no ReLU comes too close to its
kink for f32: in PyTorch's f32 the losses, d, the second-order term, G (these three
relative to |G|) and w agree with the files within 4e-5 in every case.

metamask_step_start.safetensors, float32 (exact in either precision):

    view_a.T, view_b.T      the views of iteration T = 0, 1, 2, NHWC
    model.NAME              initial parameters and running statistics

metamask_step_SETTING_STEP_HYPERGRADIENT[_no-drr].safetensors, float64, with SETTING in
`shows` (rates at which every term shows) and `authors` (theirs), STEP in
`after-regular` and `shared`, HYPERGRADIENT in `finite-difference` and `exact`:

    learning_rate, mask_rate, momentum, weight_decay, alpha, tau, lambda    scalars
    T.loss, T.loss_c        losses of iteration T's regular step
    T.loss_drr              likewise; absent without L_drr (then L = alpha L_c, no head for it)
    T.meta_loss             L_c(theta', w)
    T.direct                d = dL_c/dw at theta'
    T.second_order          -l d2L_c/dwdtheta v; G = direct + second_order
    T.total                 G
    T.w                     the mask's logits after the iteration
    T.wrong.FAULT           G with a fault: `no-momentum` (left out of the virtual step),
                            `v-at-theta` (v taken at theta); in setting `shows` only
    model.NAME              parameters and running statistics at the end
    velocity.NAME           momentum buffers at the end
    w_velocity              the mask's

NAME is PyTorch's: encoder.* as torchvision's resnet18 (no fc, convolutions OIHW),
redundancy_head.* and contrastive_head.* as nn.Sequential numbers its layers, ReLUs
counted. The mask starts at w = 0, the momentum buffers at 0. Both heads see
m * h with m = sigmoid(w).

Needs torch and safetensors; the committed files were made with torch 2.15.0 on the CPU.
"""

import itertools
import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

ITERATIONS, BATCH, SIZE = 3, 16, 12
SEED, SCALE = 26, 24.0
WIDTHS, BLOCKS = [2, 4, 8, 16], 2
HEADS = {"redundancy_head": [16, 14, 14, 12], "contrastive_head": [16, 12, 10]}
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

SETTINGS = {
    "shows": dict(learning_rate=0.05, mask_rate=2.0, alpha=1.0, tau=0.5),
    "authors": dict(learning_rate=1e-3, mask_rate=1e-3, alpha=10.0, tau=0.07),
}
FOR_ALL = {"momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "lambda": 5e-3}


# Networks. `running` holds the running statistics to update, or is None: then the
# batch's statistics are used and nothing is left behind.


def batch_norm(p, running, name, x):
    mean = running[f"{name}.running_mean"] if running else None
    variance = running[f"{name}.running_var"] if running else None
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)


def encoder(p, running, x):
    """ResNet-18 with CIFAR stem: 3x3, stride 1, no max-pool; global average pool."""

    def conv_norm(conv, norm, x, stride):
        weight = p[f"encoder.{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return batch_norm(p, running, f"encoder.{norm}", x)

    x = F.relu(conv_norm("conv1", "bn1", x, 1))
    for stage, block in itertools.product(range(4), range(BLOCKS)):
        name = f"layer{stage + 1}.{block}"
        stride = 2 if stage > 0 and block == 0 else 1
        y = F.relu(conv_norm(f"{name}.conv1", f"{name}.bn1", x, stride))
        y = conv_norm(f"{name}.conv2", f"{name}.bn2", y, 1)
        if stride == 2:
            x = conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
        x = F.relu(x + y)
    return x.mean((2, 3))


def head(p, running, name, x):
    """Linear, batch norm, ReLU, ..., Linear, batch norm."""
    n_linear = len(HEADS[name]) - 1
    for i in range(n_linear):
        x = F.linear(x, p[f"{name}.{3 * i}.weight"], p[f"{name}.{3 * i}.bias"])
        x = batch_norm(p, running, f"{name}.{3 * i + 1}", x)
        x = F.relu(x) if i < n_linear - 1 else x
    return x


def initial_state(generator):
    """SCALE times PyTorch's defaults, weights and biases uniform in +-1/sqrt(fan_in); norms 1 and 0, +-0.2."""
    p, running = {}, {}

    def uniform(shape, fan_in):
        x = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (SCALE * (2 * x - 1) / math.sqrt(fan_in)).float().double()

    def conv(name, n_in, n_out, kernel):
        p[f"encoder.{name}.weight"] = uniform((n_out, n_in, kernel, kernel), n_in * kernel**2)

    def norm(name, n):
        p[f"{name}.weight"] = (SCALE + uniform((n,), 25)).float().double()
        p[f"{name}.bias"] = uniform((n,), 25)
        running[f"{name}.running_mean"] = torch.zeros(n, dtype=torch.float64)
        running[f"{name}.running_var"] = torch.ones(n, dtype=torch.float64)

    conv("conv1", 3, WIDTHS[0], 3)
    norm("encoder.bn1", WIDTHS[0])
    n_in = WIDTHS[0]
    for (stage, n), block in itertools.product(enumerate(WIDTHS), range(BLOCKS)):
        name = f"layer{stage + 1}.{block}"
        conv(f"{name}.conv1", n_in, n, 3)
        norm(f"encoder.{name}.bn1", n)
        conv(f"{name}.conv2", n, n, 3)
        norm(f"encoder.{name}.bn2", n)
        if n_in != n:
            conv(f"{name}.downsample.0", n_in, n, 1)
            norm(f"encoder.{name}.downsample.1", n)
        n_in = n
    for name, widths in HEADS.items():
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            p[f"{name}.{3 * i}.weight"] = uniform((b, a), a)
            p[f"{name}.{3 * i}.bias"] = uniform((b,), a)
            norm(f"{name}.{3 * i + 1}", b)
    return p, running


def draw_views(generator):
    """Two views of smooth random images: common waves, and noise of its own for each view."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, SIZE, dtype=torch.float64)] * 2, indexing="ij")
    frequency = 2 * math.pi * (4 * torch.rand(BATCH, 3, 3, 2, generator=generator, dtype=torch.float64) - 2)
    phase = 2 * math.pi * torch.rand(BATCH, 3, 3, generator=generator, dtype=torch.float64)
    waves = frequency[..., 0, None, None] * y + frequency[..., 1, None, None] * x + phase[..., None, None]
    content = waves.sin().mean(2)
    noise = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return [(content + 0.3 * n).float().double() for n in noise]  # NCHW


# Losses.


def barlow_twins(z_a, z_b, lambda_):
    n, dim = z_a.shape

    def standardized(z):
        centred = z - z.mean(0)
        return centred / (centred.square().sum(0) / (n - 1) + 1e-12).sqrt()

    c = standardized(z_a).T @ standardized(z_b) / n
    diagonal = torch.eye(dim, dtype=torch.bool)
    return (1 - c[diagonal]).square().sum() + lambda_ * c[~diagonal].square().sum()


def nt_xent(z_a, z_b, tau):
    n = len(z_a)
    z = torch.cat([z_a, z_b])
    u = z / z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    similarity = (u @ u.T / tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partner = torch.arange(2 * n).roll(n)
    return F.cross_entropy(similarity, partner)


def losses(p, running, w, views, setting, with_drr):
    """L_drr (None without it) and L_c; the views go through separately."""
    h = [encoder(p, running, x) for x in views]
    masked = [torch.sigmoid(w) * x for x in h]
    drr = None
    if with_drr:
        drr = barlow_twins(*[head(p, running, "redundancy_head", x) for x in masked], FOR_ALL["lambda"])
    return drr, nt_xent(*[head(p, running, "contrastive_head", x) for x in masked], setting["tau"])


# The algorithm.


def tracked(tensors):
    return {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}


def gradient(loss, p, **options):
    return dict(zip(p, torch.autograd.grad(loss, list(p.values()), **options)))


def virtual_step(p, g, velocity, l, momentum=MOMENTUM):
    return {k: p[k] - l * (momentum * velocity[k] + g[k] + WEIGHT_DECAY * p[k]) for k in p}


def hypergradient(p, velocity, w, views, setting, method, momentum=MOMENTUM, v_at_theta=False):
    """Steps M1 to M4. Only the parameters that L_c depends on take part; norms keep no trace."""
    l = setting["learning_rate"]
    p = tracked({k: x for k, x in p.items() if not k.startswith("redundancy_head")})
    w = w.detach().clone().requires_grad_()

    def loss_c(p, w):
        return losses(p, None, w, views, setting, False)[1]

    # M1, M2. The graph of g is kept: theta' is a function of w.
    g = gradient(loss_c(p, w), p, create_graph=True)
    p_virtual = virtual_step(p, g, velocity, l, momentum)

    # M3 at theta', cut off from how it came about.
    cut, w_cut = tracked(p_virtual), w.detach().clone().requires_grad_()
    meta_loss = loss_c(cut, w_cut)
    *v, d = torch.autograd.grad(meta_loss, [*cut.values(), w_cut])
    v = dict(zip(p, v))
    if v_at_theta:
        v = {k: x.detach() for k, x in g.items()}

    # M4
    if method == "exact":
        slope = sum((g[k] * v[k]).sum() for k in p)
        second_order = -l * torch.autograd.grad(slope, w, retain_graph=True)[0]
        if not v_at_theta:
            (through_everything,) = torch.autograd.grad(loss_c(p_virtual, w), w)
            assert torch.allclose(d + second_order, through_everything, rtol=1e-11, atol=1e-13)
    else:
        r = 0.01 / math.sqrt(sum(x.square().sum().item() for x in v.values()))

        def w_gradient(step):
            moved = {k: p[k].detach() + step * v[k] for k in p}
            return torch.autograd.grad(loss_c(moved, w), w)[0]

        second_order = -l * (w_gradient(r) - w_gradient(-r)) / (2 * r)
    return meta_loss.detach(), d, second_order


def sgd(p, g, velocity, rate):
    """torch.optim.SGD's step, with its momentum buffer in our hands."""
    leaves = [x.detach().clone() for x in p.values()]
    optimizer = torch.optim.SGD(leaves, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for leaf, name in zip(leaves, p):
        leaf.grad = g[name].clone()
        optimizer.state[leaf]["momentum_buffer"] = velocity[name].clone()
    optimizer.step()
    return dict(zip(p, leaves)), {k: optimizer.state[x]["momentum_buffer"] for k, x in zip(p, leaves)}


def run(name, p, running, views, setting, step, method, with_drr):
    """All iterations of one case; returns what the file holds."""
    p = {k: x for k, x in p.items() if with_drr or not k.startswith("redundancy_head")}
    running = {k: x.clone() for k, x in running.items() if with_drr or not k.startswith("redundancy_head")}
    velocity = {k: torch.zeros_like(x) for k, x in p.items()}
    w = {"w": torch.zeros(WIDTHS[-1], dtype=torch.float64)}
    w_velocity = {"w": torch.zeros_like(w["w"])}
    out = {k: torch.tensor(x, dtype=torch.float64) for k, x in {**setting, **FOR_ALL}.items()}
    shares = []

    for t, pair in enumerate(views):
        # R1. What L leaves on w is discarded.
        leaves = tracked(p)
        drr, contrastive = losses(leaves, running, w["w"], pair, setting, with_drr)
        loss = setting["alpha"] * contrastive + (drr if with_drr else 0)
        g = gradient(loss, leaves)

        # R2
        before, velocity_before = p, velocity
        p, velocity = sgd(p, g, velocity, setting["learning_rate"])

        # M1 to M4: they change neither running statistics nor momentum.
        start = (before, velocity_before) if step == "shared" else (p, velocity)
        kept = [{k: x.clone() for k, x in state.items()} for state in (running, p, velocity)]
        meta_loss, d, second_order = hypergradient(*start, w["w"], pair, setting, method)
        total = d + second_order
        if setting is SETTINGS["shows"]:
            faults = {"no-momentum": dict(momentum=0.0), "v-at-theta": dict(v_at_theta=True)}
            for fault, options in faults.items():
                _, wrong_d, wrong = hypergradient(*start, w["w"], pair, setting, method, **options)
                out[f"{t}.wrong.{fault}"] = wrong_d + wrong
        for then, now in zip(kept, (running, p, velocity)):
            assert all(torch.equal(then[k], now[k]) for k in now), "a meta pass left a trace"

        # M5
        w, w_velocity = sgd(w, {"w": total}, w_velocity, setting["mask_rate"])

        out |= {f"{t}.loss": loss, f"{t}.loss_c": contrastive, f"{t}.meta_loss": meta_loss}
        out |= {f"{t}.loss_drr": drr} if with_drr else {}
        out |= {f"{t}.direct": d, f"{t}.second_order": second_order, f"{t}.total": total, f"{t}.w": w["w"]}
        shares.append((second_order.norm() / total.norm()).item())

    moved = w["w"].abs().max().item()
    print(f"{name}: second-order share {', '.join(f'{s:.2g}' for s in shares)}; |w| up to {moved:.2g}")
    if setting is SETTINGS["shows"]:
        assert min(shares) > 0.1, "the second-order term does not show"
        assert moved > 0.1, "the mask does not move"
        for t in range(ITERATIONS):
            right = out[f"{t}.total"]
            for key in [k for k in out if k.startswith(f"{t}.wrong.")]:
                # At shared's first iteration there is no momentum yet to leave out.
                if not (t == 0 and step == "shared" and "momentum" in key):
                    assert (out[key] - right).norm() > 1e-2 * right.norm(), f"{key} does not show"
    out |= {f"model.{k}": x for k, x in {**p, **running}.items()}
    out |= {f"velocity.{k}": x for k, x in velocity.items()}
    out["w_velocity"] = w_velocity["w"]
    return out


def write(path, tensors):
    save_file({k: x.detach().contiguous().clone() for k, x in tensors.items()}, path)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    p, running = initial_state(generator)
    views = [draw_views(generator) for _ in range(ITERATIONS)]

    start = {f"model.{k}": x.float() for k, x in {**p, **running}.items()}
    for t, pair in enumerate(views):
        for letter, x in zip("ab", pair):
            start[f"view_{letter}.{t}"] = x.permute(0, 2, 3, 1).float()
    write(folder / "metamask_step_start.safetensors", start)

    steps, methods = ["after-regular", "shared"], ["finite-difference", "exact"]
    for setting, step, method in itertools.product(SETTINGS, steps, methods):
        for with_drr in [True, False] if setting == "shows" else [True]:
            name = f"metamask_step_{setting}_{step}_{method}{'' if with_drr else '_no-drr'}"
            case = run(name, p, running, views, SETTINGS[setting], step, method, with_drr)
            write(folder / f"{name}.safetensors", case)


if __name__ == "__main__":
    main()
