"""Augmented views that teacher and student share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_distill.cache.indexing import split_element, with_fingerprint
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_integer

# Number of examples whose views are compared.
_COMPARED = 8


@dataclasses.dataclass(frozen=True)
class Views:
    """Several augmented views of each example, generated from a seed.

    The teacher labels every view, and the student is trained on the same views: both see the same crop, which teaches
    better than teacher outputs for another crop ("consistent teaching"). The seed is made of the indices of the example
    and of the view, so that views are generated again whenever they are needed and none is stored.

    Example:
    >>> views = Views(2, tf.image.stateless_random_flip_left_right)
    >>> label(teacher, (x, y), "cache", views=views, verbose=0)
    >>> dataset = open_cache("cache").join(indexed((x, y)).shuffle(32), views=views).batch(16)

    Args:
        count: Number of views per example, >= 1. The cache and the time for labeling grow in proportion. 2 to 10 is
            typical.
        augment: Function `(inputs, seed) -> inputs` of one example, where `seed` is an int64 tensor of shape `[2]`. It
            must consist of TensorFlow operations that depend on nothing else, such as the
            `tf.image.stateless_random_...` functions.

    Raises:
        ValueError: If `count` is not an integer >= 1.

    Reference:
        Beyer et al., CVPR 2022, https://arxiv.org/abs/2106.05237
    """

    count: int
    augment: Callable[[Structure, tf.Tensor], Structure]

    def __post_init__(self) -> None:
        check_integer(self.count, "count")

    def check_repeatable(self, dataset: tf.data.Dataset) -> None:
        """Make the views of a few examples twice, and raise ValueError if they differ.

        Args:
            dataset: Indexed dataset of single examples.
        """
        # Kept in memory, since a dataset that is shuffled would have other examples the second time.
        examples = dataset.take(_COMPARED).cache()
        first = _fingerprints(self.all_of(examples))
        # The second time in another order, since a seeded random state repeats itself in the same order.
        skipped = min(1, len(first) // self.count - 1)
        again = _fingerprints(self.all_of(examples.skip(skipped)))
        if first[skipped * self.count :] != again:
            raise ValueError(
                "`Views.augment` made two different views from the same example and seed. It must depend on nothing "
                "but its arguments: use the seed, as in `tf.image.stateless_random_flip_left_right(inputs, seed)`, and "
                "no layer or function that draws random numbers itself."
            )

    def all_of(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset of all views, each as an example with the index `index * count + view`.

        Args:
            dataset: Indexed dataset of single examples.
        """
        views = tf.data.Dataset.range(self.count)
        augmented = dataset.flat_map(lambda *element: views.map(lambda view: self._view(element, view)))
        known = int(dataset.cardinality())
        return augmented.apply(tf.data.experimental.assert_cardinality(known * self.count)) if known >= 0 else augmented

    def one_of(self, dataset: tf.data.Dataset, seed: int | None = None) -> tf.data.Dataset:
        """Return the dataset of one random view per example, which differs from epoch to epoch.

        Args:
            dataset: Indexed dataset of single examples.
            seed: Seed of the choice of views. None for another choice in every run. Defaults to None.
        """
        draws = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        return tf.data.Dataset.zip(dataset, draws).map(
            lambda element, draw: self._view(element, draw % self.count),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _view(self, element: Any, view: tf.Tensor) -> Any:
        # `Dataset.flat_map` passes the components of a tuple one by one, so that the element may be nested in tuples.
        while isinstance(element, tuple) and len(element) == 1:
            element = element[0]
        inputs, index, _, rest = split_element(element)
        inputs = self.augment(inputs, tf.stack([index, view]))
        return with_fingerprint(index * self.count + view, (inputs, *rest) if rest else inputs)


def _fingerprints(dataset):
    return [int(split_element(element)[2]) for element in dataset]
