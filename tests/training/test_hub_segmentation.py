"""Segmentation models of KerasHub: pixels, channels, similarities of positions, ignored pixels."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import ChannelWiseKD, KLDivergence, SimilarityPreserving
from keras_distill.models import tappable
from tests.support.helpers import features

keras_hub = pytest.importorskip("keras_hub")

SIZE, CLASSES, IGNORED = 32, 3, 255


def restart(seed):
    """Set the seed, and the numbers of generated names to 0, so that layers of both models have the same names."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)


def deeplab(seed, width):
    restart(seed)
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(SIZE, SIZE, 3),
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2],
        low_level_feature_key="P2",
        projection_filters=width,
        image_shape=(SIZE, SIZE, 3),
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, CLASSES)


def segformer(seed, width):
    restart(seed)
    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(SIZE, SIZE, 3),
        hidden_dims=[width, 2 * width],
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=2 * width)
    return keras_hub.models.SegFormerImageSegmenter(backbone, CLASSES)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("make", [pytest.param(deeplab, marks=pytest.mark.slow), segformer])
def test_pixels_channels_and_features(make):
    student, teacher = make(0, 4), make(1, 8)
    images = features(4, SIZE, SIZE, 3)
    masks = np.random.default_rng(0).integers(0, CLASSES, (4, SIZE, SIZE))
    masks[:, :5] = IGNORED
    masks[0, 10:] = IGNORED
    weight = (masks != IGNORED).astype("float32")
    # The last feature maps before the class scores.
    tap = [entry.tap for entry in tappable(student) if entry.last and entry.shape[-1] != CLASSES][-1]
    terms = [
        Term(KLDivergence(2.0), over="tokens", name="pixels"),
        Term(ChannelWiseKD(4.0), weight=0.5, name="channels"),
        Term(ChannelWiseKD(4.0), tap, tap, head="auto", name="features"),
        Term(SimilarityPreserving(), tap, tap, name="similarities"),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
    distiller.compile(keras.optimizers.Adam(1e-3), crossentropy)
    ours, others = (log_softmax(model(images, training=False)) for model in (student, teacher))
    found = distiller.evaluate(images, masks, sample_weight=weight, batch_size=4, verbose=0, return_dict=True)
    softened, of_teacher = (log_softmax(log / 2) for log in (ours, others))
    divergence = 4 * (np.exp(of_teacher) * (of_teacher - softened)).sum(-1)
    np.testing.assert_allclose(found["pixels_loss"], (weight * divergence).sum() / weight.sum(), rtol=1e-4)
    labels = np.where(weight > 0, masks, 0)[..., None]
    nats = -np.take_along_axis(ours, labels, -1)[..., 0]
    # As Keras computes it with `ignore_class`: ignored pixels have the loss 0, and the sum is divided by all weights.
    np.testing.assert_allclose(found["supervised_loss"], (weight * nats).sum() / weight.sum(), rtol=1e-4)
    history = distiller.fit(images, masks, sample_weight=weight, epochs=4, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["pixels_loss"][-1] < history["pixels_loss"][0]


def test_ignored_pixels_do_not_change_the_losses():
    """Pixels with the weight 0 do not count, whatever teacher and labels say of them."""
    student, teacher = segformer(0, 4), segformer(1, 8)
    images = features(2, SIZE, SIZE, 3)
    masks = np.random.default_rng(0).integers(0, CLASSES, (2, SIZE, SIZE))
    weight = np.ones(masks.shape, "float32")
    weight[:, :, 20:] = 0

    def changed(tensor):
        ignored = keras.ops.cast(keras.ops.arange(SIZE) >= 20, "float32")[None, None, :, None]
        return tensor + 50.0 * ignored * keras.ops.cast(keras.ops.arange(CLASSES) == 0, "float32")

    values = []
    for teacher_head in (None, changed):
        losses = {"pixels": KLDivergence(), "channels": ChannelWiseKD(4.0)}
        terms = [Term(loss, teacher_head=teacher_head, name=name) for name, loss in losses.items()]
        distiller = Distiller(student=student, teacher=teacher, terms=terms)
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        values.append(distiller.evaluate(images, masks, sample_weight=weight, verbose=0, return_dict=True))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
