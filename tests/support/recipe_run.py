"""Run a recipe for a few epochs on enlarged digits, and print the number of findings of its pre-flight checks.

python tests/support/recipe_run.py RECIPE FOLDER [flags of the recipe]
"""

import importlib
import sys

import numpy as np
from absl import flags

from recipes import data


def enlarged():
    """Return the digits of 8x8 pixels, enlarged to 28x28, in place of datasets that need a download."""
    digits = data.digits()
    return digits._replace(
        **{part: (_enlarged(x), y) for part, (x, y) in (("train", digits.train), ("test", digits.test))}
    )


def _enlarged(images):
    return np.pad(images.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2), (0, 0)))


if __name__ == "__main__":
    data.mnist = data.fashion_mnist = enlarged
    data.optdigits = data.digits
    name, folder = sys.argv[1:3]
    recipe = importlib.import_module(f"recipes.{name}")
    # Enough for these images: the moving statistics of batch normalization need about a hundred steps.
    flags.FLAGS([name, "--seeds=1", "--teacher_epochs=8", "--epochs=8", *sys.argv[3:]])
    experiment = recipe.experiment()
    experiment.files = {}
    for arm, findings in experiment.run(folder).findings.items():
        print(f"{arm}: {len(findings)} findings", *findings, sep="\n")
