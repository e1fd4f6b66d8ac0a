"""Image with the logits of several models, and its form in a JSON file."""

import base64
import dataclasses
import io
from typing import Any

import numpy as np


# Without `==`: the comparison of two arrays has no truth value.
@dataclasses.dataclass(eq=False)
class Example:
    """One image with the logits of the models.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
        label: Class index.
        logits: `{name of the model: [logit per class]}`.

    Example:

    >>> from keras_distill.experiment import Example
    >>> example = Example(np.zeros((28, 28), "uint8"), label=0, logits={"teacher": [4.0, -4.0]})
    """

    image: np.ndarray
    label: int
    logits: dict[str, Any]


def encode_png(image: np.ndarray) -> str:
    """Encode an image as a PNG in base64.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
    """
    # Pillow is not a dependency of keras_distill: results without examples do not need it.
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(text: str) -> np.ndarray:
    """Decode an image that `encode_png` encoded, without loss.

    Args:
        text: PNG in base64.
    """
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
