"""Teachers of many architectures, for tests of `shrink`."""

import keras
from keras import layers, ops


def mlp():
    hidden = [
        layer
        for number in range(5)
        for layer in (
            keras.layers.Dense(64, activation="relu", name=f"dense_{number}"),
            keras.layers.Dropout(0.1 * number, name=f"dropout_{number}"),
        )
    ]
    return keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(10, name="logits"), layers.Softmax(name="out")])


def cnn():
    def block(filters, number):
        return [
            layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{number}"),
            layers.BatchNormalization(name=f"bn_{number}"),
            layers.ReLU(name=f"relu_{number}"),
        ]

    stages = [*block(32, 0), *block(32, 1), *block(32, 2), layers.MaxPooling2D(name="pool")]
    stages += [*block(64, 3), *block(64, 4), *block(64, 5), *block(64, 6)]
    preprocessing = [layers.Rescaling(1 / 255, name="rescaling"), layers.RandomFlip(name="flip")]
    head = [layers.Flatten(name="flatten"), layers.Dense(48, name="dense"), layers.Dense(10, name="logits")]
    return keras.Sequential([keras.Input((8, 8, 3)), *preprocessing, *stages, *head])


def unet():
    def block(x, filters, name):
        x = layers.Conv2D(filters, 3, padding="same", name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    inputs, skips = keras.Input((16, 16, 1)), []
    x = inputs
    for level, filters in enumerate((16, 32)):
        for number in range(2):
            x = block(x, filters, f"down_{level}_{number}")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool_{level}")(x)
    for number in range(3):
        x = block(x, 64, f"middle_{number}")
    for level, filters in ((1, 32), (0, 16)):
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"join_{level}")([x, skips[level]])
        for number in range(2):
            x = block(x, filters, f"up_{level}_{number}")
    return keras.Model(inputs, layers.Conv2D(3, 1, name="mask")(x))


def residual():
    """Residual sums, one of them with the inputs, and a sum by `+`."""
    inputs = keras.Input((8, 8, 8))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.Conv2D(32, 1, name="widen")(layers.Add(name="with_inputs")([x, inputs]))
    for number in range(4):
        y = layers.Conv2D(32, 3, padding="same", name=f"first_{number}")(x)
        y = layers.ReLU(name=f"relu_{number}")(layers.BatchNormalization(name=f"bn_{number}")(y))
        x = x + layers.Conv2D(32, 3, padding="same", name=f"second_{number}")(y)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def text_classifier():
    recurrent = [layers.LSTM(32, return_sequences=True, name=f"lstm_{number}") for number in range(4)]
    bidirectional = layers.Bidirectional(layers.GRU(16, name="gru"), name="both")
    head = [layers.Dense(16, activation="tanh", name="dense"), layers.Dense(4, name="logits")]
    embedding = layers.Embedding(50, 32, mask_zero=True, name="embedding")
    return keras.Sequential([keras.Input((6,), dtype="int32"), embedding, *recurrent, bidirectional, *head])


def vision_transformer():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(64, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((16, 64), name="tokens")(x)
    first = ops.zeros_like(ops.cast(x[:, :1, 0], "int32"))
    x = layers.Concatenate(axis=1, name="prepend")([layers.Embedding(1, 64, name="class_token")(first), x])
    positions = ops.zeros_like(ops.cast(x[:, :, 0], "int32")) + ops.arange(17)
    x = x + layers.Embedding(17, 64, name="positions")(positions)
    for number in range(4):
        y = layers.LayerNormalization(name=f"norm_{number}")(x)
        y = layers.MultiHeadAttention(4, 16, name=f"attention_{number}")(y, y)
        x = layers.Add(name=f"residual_{number}")([x, y])
        y = layers.LayerNormalization(name=f"mlp_norm_{number}")(x)
        y = layers.Dense(128, activation="gelu", name=f"mlp_{number}")(y)
        x = layers.Add(name=f"block_{number}")([x, layers.Dense(64, name=f"mlp_out_{number}")(y)])
    return keras.Model(inputs, layers.Dense(10, name="logits")(layers.LayerNormalization(name="norm")(x)[:, 0]))


def hub_backbone(**settings):
    import keras_hub

    sizes = {"vocabulary_size": 30, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 128, "num_layers": 4}
    return keras_hub.models.BertBackbone(**(sizes | {"max_sequence_length": 8} | settings))


def hub_classifier():
    import keras_hub

    return keras_hub.models.BertTextClassifier(hub_backbone(), num_classes=3)


def hub_language_model():
    """Grouped-query attention with rotary position embeddings, and heads of a given size."""
    import keras_hub

    heads = {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    sizes = {"vocabulary_size": 30, "num_layers": 4, "hidden_dim": 64, "intermediate_dim": 128}
    return keras_hub.models.GemmaCausalLM(keras_hub.models.GemmaBackbone(**sizes, **heads))


def hub_layers():
    import keras_hub

    inputs = keras.Input((10,), dtype="int32")
    x = keras_hub.layers.TokenAndPositionEmbedding(30, 10, 64, name="embedding")(inputs)
    for number in range(4):
        x = keras_hub.layers.TransformerEncoder(128, 4, name=f"encoder_{number}")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D(name="pool")(x)))


def hub_decoder():
    """KerasHub layers with shapes in their configs, and an embedding that is used in reverse."""
    import keras_hub

    inputs = keras.Input((6,), dtype="int32")
    embedding = keras_hub.layers.ReversibleEmbedding(50, 64, name="embedding")
    x = embedding(inputs)
    for number in range(4):
        x = keras_hub.layers.TransformerDecoder(128, 4, name=f"decoder_{number}")(x)
    return keras.Model(inputs, embedding(x, reverse=True))


def model_with_backbone():
    """KerasHub backbone as a layer of a functional model."""
    backbone = hub_backbone()
    inputs = {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in backbone.input.items()
    }
    x = layers.Dense(64, name="dense")(backbone(inputs)["pooled_output"])
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def nested():
    """Models as layers: shared ones, and repeated ones."""
    inner_layers = [layers.Dense(32, name=f"inner_{number}") for number in range(4)]
    inner = keras.Sequential([keras.Input((16,)), *inner_layers, layers.Dense(16, name="inner_out")], name="inner")
    inputs, shared = [keras.Input((16,), name="a"), keras.Input((16,), name="b")], layers.Dense(16, name="shared")
    x = layers.Subtract(name="difference")([inner(shared(each)) for each in inputs])
    for number in range(4):
        hidden = [layers.Dense(64, name="up"), layers.Dense(16, name="down")]
        block = keras.Sequential([keras.Input((16,)), *hidden], name=f"block_{number}")
        x = layers.Add(name=f"add_{number}")([x, block(x)])
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def various_layers():
    """Grouped and separable convolutions, gates of one channel, gated linear units, a decoder with a fixed Reshape."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(64, 3, padding="same", name="conv")(inputs)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(layers.GroupNormalization(32, name="group_norm")(x))
    x = layers.Conv2D(64, 3, groups=4, padding="same", name="grouped")(x)
    x = layers.Conv2D(64, 3, groups=64, padding="same", name="depthwise_as_groups")(x)
    x = layers.GroupNormalization(-1, name="instance_norm")(x)
    value, gate = ops.split(layers.Conv2D(128, 1, name="glu")(x), 2, axis=-1)
    x = value * ops.sigmoid(gate)
    squeezed = layers.Reshape((1, 1, 64), name="squeeze")(layers.GlobalAveragePooling2D(name="pool")(x))
    squeezed = layers.Conv2D(16, 1, activation="relu", name="reduce")(squeezed)
    x = layers.Multiply(name="excite")([x, layers.Conv2D(64, 1, activation="sigmoid", name="expand")(squeezed)])
    x = layers.Multiply(name="spatial")([x, layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)])
    y = layers.SeparableConv2D(64, 3, padding="same", name="separable")(x)
    x = layers.Maximum(name="maximum")([x, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)])
    x = layers.Dense(256, name="dense")(layers.Flatten(name="flatten")(x))
    x = layers.Reshape((4, 4, 16), name="unflatten")(x)
    return keras.Model(inputs, layers.Conv2DTranspose(3, 4, strides=2, padding="same", name="image")(x))


def mobile_net():
    return keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), weights=None, classes=7)


def res_net():
    return keras.applications.ResNet50V2(input_shape=(32, 32, 3), weights=None, classes=7)


def efficient_net():
    return keras.applications.EfficientNetB0(input_shape=(32, 32, 3), weights=None, classes=7)


def conv_next():
    return keras.applications.ConvNeXtTiny(input_shape=(32, 32, 3), weights=None, classes=7)


def dense_net():
    return keras.applications.DenseNet121(input_shape=(32, 32, 3), weights=None, classes=7)
