"""Images of a page."""

import dataclasses

import numpy as np

from keras_distill.experiment.example import encode_png

# Larger images are shown without blocks.
_SMALL = 64


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image as a PNG.

    Attributes:
        source: The PNG as a data URI.
        width: Pixels.
        height: Pixels.
        alt: Alternative text.
    """

    source: str
    width: int
    height: int
    alt: str

    @property
    def small(self) -> bool:
        """True if the image is to be enlarged pixel by pixel."""
        return max(self.width, self.height) <= _SMALL


def photo(image: np.ndarray, alt: str) -> Photo:
    """Return an image as a `Photo`.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
        alt: Alternative text.
    """
    height, width = image.shape[:2]
    return Photo("data:image/png;base64," + encode_png(image), width, height, alt)
