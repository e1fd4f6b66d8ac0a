"""The paraphraser of factor transfer (FT): an auto-encoder of a teacher's maps."""

import keras

SLOPE = 0.1


@keras.saving.register_keras_serializable("keras_distill")
class Paraphraser(keras.Model):
    """Auto-encoder of maps: what it puts between its halves, the factors, is what a student is to imitate.

    Three 3x3 convolutions encode and three transposed ones decode, each with leaky ReLU behind it; height and width
    stay. It is trained before the student, without labels, to give back a teacher's maps, and then does its work in a
    `ParaphrasedTeacher`:

    ```python
    maps = keras.Model(teacher.input, teacher.get_layer("block_6").output).predict(x)
    paraphraser = Paraphraser(rate=0.5)
    paraphraser.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mae")
    paraphraser.fit(maps, maps, epochs=5)
    ```

    Since the last of its layers has a leaky ReLU as well, negative maps are hard to give back: tap behind a ReLU.

    Args:
        rate: Channels of the factors over those of the maps, above 0, default 0.5.
        normalization: Whether batch normalisation stands before each leaky ReLU, and no bias. Default False, as in the
            authors' code.

    Raises:
        ValueError: If `rate` is not a number above 0.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977
    """

    def __init__(self, rate=0.5, normalization=False, **kwargs):
        super().__init__(**kwargs)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            raise ValueError(f"`rate` must be a finite number above 0. Received: {rate!r}")
        self.rate = rate
        self.normalization = normalization

    def build(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "Paraphraser takes maps of shape [batch, height, width, channels] with known channels. "
                f"Received: shape {input_shape}."
            )
        channels = input_shape[-1]
        factors = max(1, round(self.rate * channels))
        halves = ("encoder", keras.layers.Conv2D), ("decoder", keras.layers.Conv2DTranspose)
        self.encoder, self.decoder = (
            self._half(kind, widths, name)
            for (name, kind), widths in zip(halves, ((channels, factors, factors), (factors, channels, channels)))
        )
        self.encoder.build(tuple(input_shape))
        self.decoder.build((*input_shape[:-1], factors))

    def _half(self, kind, widths, name):
        layers = []
        for width in widths:
            layers.append(kind(width, 3, padding="same", data_format="channels_last", use_bias=not self.normalization))
            layers += [keras.layers.BatchNormalization()] if self.normalization else []
            layers.append(keras.layers.LeakyReLU(SLOPE))
        return keras.Sequential(layers, name=name)

    def encode(self, maps):
        """The factors of maps of shape `[batch, height, width, channels]`: the same height and width."""
        return self.encoder(maps, training=False)

    def call(self, maps, training=False):
        return self.decoder(self.encoder(maps, training=training), training=training)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "normalization": self.normalization}
