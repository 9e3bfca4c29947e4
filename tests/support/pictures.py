"""What a picture shows."""

from pathlib import Path

import numpy as np


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def has_colour(path: Path, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels(path) - wanted).max(-1) < 3).sum() > 20
