"""Writes augment.safetensors: what torchvision makes of given images with given parameters.

    python augment.py OUT_DIR

For crates/metamask-augment/tests/fixtures.

Needs torch, torchvision, Pillow, numpy and safetensors; the committed file was
made with torchvision 0.29.2 and Pillow 13.0.0 on the CPU. Images are byte
images of three kinds: "32" (32 x 32), "96" (96 x 96) and "wide" (40 x 56), the
first of each smooth, the second noisy.

Tensors: `<kind>/image` u8 [n, h, w, 3]; for each operation `<kind>/<operation>/params`
f32 [k, p] and, for each row i of it, `<kind>/<operation>/<i>` [n, h', w', 3], u8 in 0
to 255 (f32 for `normalize`). All go through torchvision's functions on PIL images, but for
`hue`: PIL holds the hue in 8 bits, so `hue` is the float tensor path, rounded at
the end, and `hue_pil` is what PIL makes of it.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode

SEED = 20260131
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def smooth_image(rng, height, width):
    """Waves of low frequency in each channel, with a few flat, saturated rectangles."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            fy, fx = rng.uniform(-2.5, 2.5, 2)
            phase, amplitude = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3)
            image[..., channel] += amplitude * np.sin(2 * np.pi * (fy * y / height + fx * x / width) + phase)
    image = image + rng.uniform(0.3, 0.7, 3)
    for _ in range(4):
        top, left = rng.integers(0, height - 6), rng.integers(0, width - 6)
        image[top : top + rng.integers(3, height // 3), left : left + rng.integers(3, width // 3)] = rng.integers(0, 2, 3)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def noisy_image(rng, height, width):
    """The same with noise on top, which reaches both ends of the range."""
    image = smooth_image(rng, height, width).astype(np.float64) + rng.normal(0, 40, (height, width, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def resized_crop(image, top, left, height, width, out_height, out_width):
    size = [int(out_height), int(out_width)]
    return F.resized_crop(image, int(top), int(left), int(height), int(width), size, InterpolationMode.BILINEAR)


def hue_in_floats(image, shift):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (F.adjust_hue(pixels, shift) * 255).round().byte().permute(1, 2, 0).numpy()


def simclr_chain(image, *parameters):
    """Crop, flip and jitter as MetaMask's recipe orders them, all in PIL's 8 bits."""
    *crop, brightness, contrast, saturation, hue = parameters
    image = F.hflip(resized_crop(image, *crop))
    image = F.adjust_contrast(F.adjust_brightness(image, brightness), contrast)
    return F.adjust_hue(F.adjust_saturation(image, saturation), hue)


OPERATIONS = {
    "resized_crop": resized_crop,
    "flip": lambda image: F.hflip(image),
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": hue_in_floats,
    "hue_pil": F.adjust_hue,
    "grayscale": lambda image: F.rgb_to_grayscale(image, 3),
    "blur": lambda image, kernel, sigma: F.gaussian_blur(image, [int(kernel)] * 2, [sigma] * 2),
    "solarize": lambda image, threshold: F.solarize(image, threshold * 255),
    "resize": lambda image, size: F.resize(image, int(size), InterpolationMode.BILINEAR),
    "center_crop": lambda image, size: F.center_crop(image, [int(size)] * 2),
    "normalize": lambda image: F.normalize(F.to_tensor(image), MEAN, STD).permute(1, 2, 0).numpy(),
    "simclr": simclr_chain,
}

# kind -> operation -> the parameters of each case
CASES = {
    "32": {
        "resized_crop": [
            [0, 0, 32, 32, 32, 32],
            [3, 5, 9, 10, 32, 32],
            [11, 0, 21, 32, 32, 32],
            [31, 31, 1, 1, 32, 32],
            [4, 2, 24, 29, 16, 16],
        ],
        "flip": [[]],
        "brightness": [[0.6], [0.93], [1.4]],
        "contrast": [[0.6], [1.07], [1.4]],
        "saturation": [[0.0], [0.6], [1.4]],
        "hue": [[-0.5], [-0.1], [0.0], [0.037], [0.1], [0.35]],
        "hue_pil": [[-0.1], [0.037], [0.1]],
        "grayscale": [[]],
        "blur": [[3, 0.1], [3, 0.7], [3, 2.0], [9, 1.5]],
        "solarize": [[0.5], [0.25]],
        "normalize": [[]],
        "simclr": [
            [3, 5, 20, 17, 32, 32, 1.2, 0.8, 1.3, 0.06],
            [0, 7, 12, 14, 32, 32, 0.7, 1.35, 0.65, -0.1],
        ],
    },
    "96": {
        "resized_crop": [
            [0, 0, 96, 96, 32, 32],
            [10, 20, 50, 67, 32, 32],
            [70, 1, 25, 29, 32, 32],
            [5, 8, 80, 20, 32, 32],
        ],
        "contrast": [[1.4]],
        "hue": [[-0.08]],
        "blur": [[9, 1.3]],
    },
    "wide": {
        "resized_crop": [[5, 9, 30, 40, 24, 24]],
        "flip": [[]],
        "resize": [[32], [70]],
        "center_crop": [[31], [40]],
        "contrast": [[0.7]],
        "blur": [[5, 0.9]],
    },
}
SIZES = {"32": (32, 32), "96": (96, 96), "wide": (40, 56)}


def main(out_dir):
    rng = np.random.default_rng(SEED)
    tensors = {}
    for kind, operations in CASES.items():
        images = np.stack([make(rng, *SIZES[kind]) for make in (smooth_image, noisy_image)])
        tensors[f"{kind}/image"] = images
        for operation, cases in operations.items():
            apply = OPERATIONS[operation]
            # Parameters are f32 in the file: torchvision gets the same numbers.
            params = np.array(cases, dtype=np.float32)
            expected = [
                [np.asarray(apply(Image.fromarray(image), *map(float, row))) for image in images] for row in params
            ]
            tensors[f"{kind}/{operation}/params"] = params
            for index, case in enumerate(expected):
                tensors[f"{kind}/{operation}/{index}"] = np.stack(case)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, Path(out_dir) / "augment.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
