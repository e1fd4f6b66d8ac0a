"""Image with its label and the predictions of several models, drawn as images."""

import dataclasses

import numpy as np


# Without `==`: the comparison of two arrays has no truth value.
@dataclasses.dataclass(eq=False)
class Picture:
    """One input image with the predictions of the models, such as masks or boxes.

    All images are uint8, shape `[height, width]` or `[height, width, 3]`.

    Args:
        image: The input.
        label: The label, drawn as an image.
        predictions: `{name of the model: its prediction, drawn as an image}`.

    Example:

    >>> from keras_distill.experiment import Picture
    >>> image = np.zeros((64, 64), "uint8")
    >>> picture = Picture(image, label=image, predictions={"teacher": image})
    """

    image: np.ndarray
    label: np.ndarray
    predictions: dict[str, np.ndarray]
