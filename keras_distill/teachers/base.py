"""What every teacher shares."""

from types import MappingProxyType


class Teacher:
    """Gives activations for a batch. Abstract.

    Not a layer: nothing of a teacher is trained, changed, or saved with the student.

    Attributes:
        state: Variables that are saved with the distiller all the same; none, unless the teacher itself moves.
        weights: Variables it computes with, which the student must not share.
        models: Models it calls with the batch's inputs as they are; they tell the inputs' shapes if the student cannot.
        stored: `{tap: tf.TensorSpec}` of activations that come with the batch, as `batch.cached`.
        signature: What it does with the weights' results, in words: with the weights it tells a teacher from others,
            so that `cached` and `label` do not take one for another. Empty if the weights say all.
    """

    state = ()
    weights = ()
    models = ()
    stored = MappingProxyType({})
    signature = ""

    def connect(self, taps):
        """Says, once, before the first batch, which activations will be asked for.

        Args:
            taps: Names, as `Taps` reads them.

        Raises:
            ValueError: If the teacher cannot give one of them.
        """
        raise NotImplementedError

    def activations(self, batch):
        """The activations for a `Batch`.

        Returns:
            `{tap: tensor of shape [batch, ...]}` for every connected tap.
        """
        raise NotImplementedError

    def find_layer(self, name):
        """The layer at a path, for a loss that reads weights of it.

        Raises:
            ValueError: If the teacher has no such layer.
        """
        raise ValueError(
            f"A {type(self).__name__} has no layers of its own, so none called '{name}'. Tap what it gives as it is."
        )

    def after_step(self, student):
        """Called when the student has made a step; most teachers stay as they are."""
