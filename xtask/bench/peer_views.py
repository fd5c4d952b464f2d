"""SimCLR views of 32 px images in other libraries, on one core.

Crop and resize, flip, colour jitter, greyscale, normalisation, as SimCLR does
for CIFAR (no blur), from uint8 images in memory to float tensors. Prints one
JSON object: median and smallest time of 1,000 views in ms.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

SIZE, COUNT = 32, 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = {"scale": (0.08, 1.0)}
JITTER = (0.4, 0.4, 0.4, 0.1)


def pil(images):
    from PIL import Image
    from torchvision import transforms as t

    pipeline = t.Compose([
        t.RandomResizedCrop(SIZE, **CROP),
        t.RandomHorizontalFlip(),
        t.RandomApply([t.ColorJitter(*JITTER)], 0.8),
        t.RandomGrayscale(0.2),
        t.ToTensor(),
        t.Normalize(MEAN, STD),
    ])
    pictures = [Image.fromarray(image) for image in images]
    return lambda: [pipeline(picture) for picture in pictures]


def v2(images):
    from torchvision.transforms import v2 as t

    pipeline = t.Compose([
        t.RandomResizedCrop(SIZE, **CROP),
        t.RandomHorizontalFlip(),
        t.RandomApply([t.ColorJitter(*JITTER)], 0.8),
        t.RandomGrayscale(0.2),
        t.ToDtype(torch.float32, scale=True),
        t.Normalize(MEAN, STD),
    ])
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    return lambda: [pipeline(tensor) for tensor in tensors]


def albumentations(images):
    import albumentations as a
    from albumentations.pytorch import ToTensorV2

    pipeline = a.Compose([
        a.RandomResizedCrop((SIZE, SIZE), **CROP),
        a.HorizontalFlip(p=0.5),
        a.ColorJitter(*JITTER, p=0.8),
        a.ToGray(p=0.2),
        a.Normalize(MEAN, STD),
        ToTensorV2(),
    ])
    return lambda: [pipeline(image=image)["image"] for image in images]


def kornia(images):
    import kornia.augmentation as k

    pipeline = k.AugmentationSequential(
        k.RandomResizedCrop((SIZE, SIZE), **CROP),
        k.RandomHorizontalFlip(p=0.5),
        k.ColorJitter(*JITTER, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return lambda: pipeline(batch.float() / 255)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, choices=["pil", "v2", "albumentations", "kornia"])
    parser.add_argument("--threads", type=int, help="ignored: one core each")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    work = globals()[args.peer](images)
    work()
    times_ms = []
    for _ in range(args.steps):
        start = time.perf_counter()
        work()
        times_ms.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"median_ms": statistics.median(times_ms), "min_ms": min(times_ms)}))


if __name__ == "__main__":
    main()
