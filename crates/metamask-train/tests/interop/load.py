"""Loads exported encoders by the Python of their own model cards.

    python load.py DIR

DIR holds STEM-LIBRARY-PLACE.md with its files, and STEM.expected with images
and the features times the mask that the real library must give.
"""

import os
import pathlib
import sys

import torch
from safetensors.torch import load_file

TOLERANCE = 1e-5  # of the largest feature: f32 sums of some thousand terms in another order


def main():
    os.chdir(sys.argv[1])
    for card in sorted(pathlib.Path().glob("*.md")):
        expected = load_file(card.name.split("-")[0] + ".expected")
        code = card.read_text().split("```python\n")[1].split("```")[0]
        scope = {}
        exec(code, scope)  # the card's own lines, with a strict load_state_dict
        with torch.no_grad():
            output = scope["model"](expected["images"]) * scope.get("mask", 1.0)
        scale = expected["masked"].abs().max().item()
        difference = (output - expected["masked"]).abs().max().item() / scale
        verdict = "equal" if difference <= TOLERANCE else "DIFFERS"
        print(f"{verdict} {card.stem}: {difference:.1e} of {scale:.2f}")


main()
