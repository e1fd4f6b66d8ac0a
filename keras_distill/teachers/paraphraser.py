"""Paraphraser of factor transfer (FT): an autoencoder of a teacher's feature maps."""

from typing import Any

import keras

from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number

SLOPE = 0.1


@keras.saving.register_keras_serializable("keras_distill")
class Paraphraser(keras.Model):
    """Paraphraser of factor transfer (FT): an autoencoder whose code, the factors, the student imitates.

    Three 3x3 convolutions encode and three transposed 3x3 convolutions decode, each followed by leaky ReLU; height and
    width do not change. Train it before the student, without labels, to reconstruct a teacher's feature maps, then pass
    it to a `ParaphrasedTeacher`. Tap the teacher after a ReLU: the decoder ends in a leaky ReLU, so it reconstructs
    negative values poorly.

    Args:
        rate: Channels of the factors divided by those of the feature maps, a finite number > 0. 0.5 to 0.75 is typical.
            Defaults to 0.5.
        normalization: True to add batch normalization before each leaky ReLU, instead of a bias. Defaults to False, as
            in the authors' code.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Raises:
        ValueError: If `rate` is not a finite number > 0, or when built, if the input is not a feature map with known
            channels.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977

    Example:
    >>> maps = keras.Model(teacher.inputs, teacher.get_layer("block_4").output)(x)
    >>> paraphraser = Paraphraser(rate=0.5)
    >>> paraphraser.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mae")
    >>> history = paraphraser.fit(maps, maps, epochs=1, verbose=0)
    """

    def __init__(self, rate: float = 0.5, normalization: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = check_number(rate, "rate", above=0)
        self.normalization = normalization

    def build(self, input_shape: tuple) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "Paraphraser takes feature maps of shape [batch, height, width, channels] with known channels. "
                f"Received: shape {input_shape}"
            )
        channels = input_shape[-1]
        factors = max(1, round(self.rate * channels))
        self.encoder = self._stack(keras.layers.Conv2D, (channels, factors, factors), "encoder")
        self.decoder = self._stack(keras.layers.Conv2DTranspose, (factors, channels, channels), "decoder")
        self.encoder.build(tuple(input_shape))
        self.decoder.build((*input_shape[:-1], factors))

    def _stack(self, layer_class, widths, name):
        layers = []
        for width in widths:
            layers.append(
                layer_class(width, 3, padding="same", data_format="channels_last", use_bias=not self.normalization)
            )
            layers += [keras.layers.BatchNormalization()] if self.normalization else []
            layers.append(keras.layers.LeakyReLU(SLOPE))
        return keras.Sequential(layers, name=name)

    def encode(self, maps: Tensor) -> Tensor:
        """Return the factors of feature maps, in inference mode.

        Args:
            maps: Shape `[batch, height, width, channels]`.

        Returns:
            Shape `[batch, height, width, factors]`.
        """
        return self.encoder(maps, training=False)

    def call(self, maps: Tensor, training: bool = False) -> Tensor:
        return self.decoder(self.encoder(maps, training=training), training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "normalization": self.normalization}
