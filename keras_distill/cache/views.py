"""Augmented examples that teacher and student see alike."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_distill.cache.indexing import split_element, with_fingerprint


class Views(NamedTuple):
    """Several augmented views of each example, made again from a seed whenever they are needed.

    The teacher says something of every view, and a student that learns from it sees that view and no other: both see
    the same crop, which teaches better than a teacher that saw another one. The seed is made of the example's number
    and the view's, so that nothing of the pictures is stored.

    ```python
    def augment(image, seed):
        return tf.image.stateless_random_flip_left_right(tf.image.stateless_random_crop(image, (24, 24, 1), seed), seed)

    label(teacher, dataset, "cache", views=Views(8, augment))
    distiller.fit(cached("cache").join(indexed(dataset).shuffle(10_000), views=Views(8, augment)).batch(128))
    ```

    Attributes:
        count: Views of each example, 1 or more.
        augment: From the inputs of one example and a seed, int64 of shape `[2]`, to its augmented inputs, by operations
            of TensorFlow that depend on nothing else, as `tf.image.stateless_random_...` do.

    Reference:
        Beyer et al., CVPR 2022, https://arxiv.org/abs/2106.05237
    """

    count: int
    augment: Callable

    def all_of(self, dataset):
        """All views of an indexed data set's examples, each an example of its own, number `i * count + view`."""
        views = tf.data.Dataset.range(self.count)
        every = dataset.flat_map(lambda *element: views.map(lambda view: self._view(element, view)))
        known = int(dataset.cardinality())
        return every.apply(tf.data.experimental.assert_cardinality(known * self.count)) if known >= 0 else every

    def one_of(self, dataset, seed=None):
        """A view, drawn anew in every epoch, of each example of an indexed data set that is not batched."""
        drawn = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        return tf.data.Dataset.zip(dataset, drawn).map(
            lambda element, number: self._view(element, number % self.count),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _view(self, element, view):
        # A function of a data set gets the parts of a tuple one by one.
        while isinstance(element, tuple) and len(element) == 1:
            element = element[0]
        inputs, index, _, rest = split_element(element)
        inputs = self.augment(inputs, tf.stack([index, view]))
        return with_fingerprint(index * self.count + view, (inputs, *rest) if rest else inputs)
