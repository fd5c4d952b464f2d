"""kNN or linear probe on random features in PyTorch, or kNN in FAISS.

kNN: 10,000 queries against 50,000 x 512 normalised features, k = 200, votes
weighted by exp(cos / 0.1) over 10 classes, in blocks of queries. Probe:
multinomial logistic regression of 50,000 x 512 features, 100 iterations of
L-BFGS on the whole set. Prints one JSON object: median and smallest time in ms.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional as F

N, M, DIM, K, CLASSES = 50_000, 10_000, 512, 200, 10
BLOCK = 256


def votes(cosines, neighbours, labels):
    weights = (cosines / 0.1).exp()
    scores = torch.zeros(len(cosines), CLASSES)
    return scores.scatter_add_(1, labels[neighbours], weights).argmax(1)


def knn(bank, labels, queries):
    bank, queries = F.normalize(bank), F.normalize(queries)
    return torch.cat([
        votes(*(rows @ bank.T).topk(K, dim=1), labels) for rows in queries.split(BLOCK)
    ])


def knn_faiss(bank, labels, queries):
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(F.normalize(bank).numpy())
    cosines, neighbours = index.search(F.normalize(queries).numpy(), K)
    return votes(torch.from_numpy(cosines), torch.from_numpy(neighbours), labels)


def probe(features, labels):
    weight = torch.zeros(CLASSES, DIM, requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=100, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = loss + 0.5e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=["knn", "probe"], required=True)
    parser.add_argument("--faiss", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if args.faiss:
        import faiss

        faiss.omp_set_num_threads(args.threads)
    bank, queries = torch.randn(N, DIM), torch.randn(M, DIM)
    labels = torch.randint(CLASSES, (N,))
    times_ms = []
    for _ in range(args.steps):
        start = time.perf_counter()
        if args.task == "probe":
            probe(bank, labels)
        else:
            (knn_faiss if args.faiss else knn)(bank, labels, queries)
        times_ms.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"median_ms": statistics.median(times_ms), "min_ms": min(times_ms)}))


if __name__ == "__main__":
    main()
