"""Expectations of the private names in `keras_distill._compat`, and where private names may be used.

One file, so that a new version of Keras or TensorFlow can be checked by running this file alone.
"""

import ast
import pathlib
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import _compat
from tests.support.helpers import crossentropy, data, mlp

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "keras_distill"


def test_metric_modes():
    model = mlp()
    x, y = data()
    model.compile("sgd", crossentropy(), metrics=["accuracy"])
    model.fit(x, y, verbose=0)
    modes = _compat.metric_modes([*model.metrics, keras.metrics.MeanSquaredError(), keras.metrics.Sum()])
    assert modes == {"loss": None, "accuracy": "max", "mean_squared_error": "min", "sum": None}


def test_flatten_layers():
    inner = mlp(name="inner")
    outer = keras.Sequential([keras.Input((8,)), inner, keras.layers.Softmax(name="softmax")])
    assert _compat.flatten_layers(outer)[0] is outer
    children = _compat.flatten_layers(outer, include_self=False, recursive=False)
    assert inner in children and outer.get_layer("softmax") in children
    assert inner.get_layer("features") not in children
    assert inner.get_layer("features") in _compat.flatten_layers(outer)


def test_flatten_layers_of_an_attention():
    attention = keras.layers.MultiHeadAttention(2, 4)
    attention.build((None, 3, 8), (None, 3, 8))
    names = {layer.name for layer in _compat.flatten_layers(attention, include_self=False)}
    assert {"query", "key", "value"} <= names


def test_strategy_build_is_called_before_the_first_step():
    calls = []

    class Recorded(_compat.StrategyBuild, keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def build_before_first_step(self, iterator=None, data_batch=None):
            calls.append((iterator is not None, data_batch is not None))

    model = Recorded()
    model.compile("sgd", crossentropy())
    x, y = data(4)
    model.fit(x, y, verbose=0)
    model.train_on_batch(x, y)
    model.evaluate(x, y, verbose=0)
    model.test_on_batch(x, y)
    assert calls == [(True, False), (False, True), (True, False), (False, True)]


def test_symbolic_build():
    model = mlp()
    model.compile("adam", crossentropy(), metrics=["accuracy"])
    assert len(model.metrics_variables) == 2 and not model.optimizer.built
    x, y = data(4)
    _compat.symbolic_build(model, (tf.constant(x), tf.constant(y)))
    assert len(model.metrics_variables) == 4 and model.optimizer.built


def test_producing_call():
    inputs, layer = keras.Input((3,)), keras.layers.Dense(3)
    hidden = layer(inputs)
    operation, (tensor,) = _compat.producing_call(layer(hidden))
    assert operation is layer and tensor is hidden


def test_graph_of_a_functional_model():
    inputs, layer = keras.Input((3,), name="x"), keras.layers.Dense(3, name="dense")
    hidden = layer(inputs)
    model = keras.Model({"x": inputs}, {"sum": layer(hidden) + 1.0, "hidden": hidden})
    first, second, last = _compat.graph_calls(model)
    assert first.operation is second.operation is layer
    assert first.args == (inputs,) and first.outputs == [hidden] and second.args == (hidden,)
    assert last.args == (second.outputs[0], 1.0) and last.kwargs == {}
    outputs = _compat.graph_outputs(model)
    assert outputs["hidden"] is hidden and outputs["sum"] is last.outputs[0]
    assert _compat.input_layer(inputs).name == "x"
    assert _compat.has_graph(model) and _compat.is_plain_graph(model)


def test_graph_of_a_sequential():
    model = keras.Sequential([keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")])
    assert not _compat.has_graph(model) and _compat.is_plain_graph(model)
    model(np.ones((1, 4), "float32"))
    assert _compat.has_graph(model)
    assert [call.operation.name for call in _compat.graph_calls(model)] == ["one", "two"]
    assert _compat.graph_outputs(model).shape == (1, 2)


def test_graph_of_a_functional_subclass():
    class Subclass(keras.Model):
        def __init__(self):
            inputs = keras.Input((3,))
            super().__init__(inputs, keras.layers.Dense(2)(inputs))

    assert _compat.has_graph(Subclass()) and not _compat.is_plain_graph(Subclass())
    assert not _compat.has_graph(keras.layers.Dense(2))


def test_distribute_strategy():
    assert _compat.distribute_strategy(mlp()) is None
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = mlp()
    assert _compat.distribute_strategy(model) is strategy


def test_cross_device_ops():
    operations = tf.distribute.ReductionToOneDevice()
    assert _compat.cross_device_ops(tf.distribute.MirroredStrategy(["CPU:0"], operations)) is operations


def test_set_initial_epoch():
    class Skip(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            _compat.set_initial_epoch(self.model, 2)

    model = mlp()
    model.compile("sgd", crossentropy())
    assert model.fit(*data(4), epochs=3, verbose=0, callbacks=[Skip()]).epoch == [2]
    _compat.set_initial_epoch(model, None)
    assert model.fit(*data(4), epochs=3, initial_epoch=1, verbose=0).epoch == [1, 2]


def test_fit_looks_up_the_train_function_in_every_step():
    # `Backup` replaces it while Keras counts steps that were already made.
    calls = []

    class Replace(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            train = self.model.train_function

            def first(iterator):
                calls.append("first")
                self.model.train_function = train
                return train(iterator)

            self.model.train_function = first

    model = mlp()
    model.compile("sgd", crossentropy())
    model.fit(*data(8), batch_size=4, verbose=0, callbacks=[Replace()])
    assert calls == ["first"]


@pytest.fixture
def accumulating():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    variable = keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    for gradient in (1.0, 2.0):
        optimizer.apply([tf.constant([gradient, gradient])], [variable])
    return optimizer, variable


def test_step_counter(accumulating):
    optimizer, _ = accumulating
    assert int(_compat.step_counter(optimizer)) == 2
    assert int(optimizer.iterations) == 0
    _compat.step_counter(optimizer).assign(3)
    assert int(optimizer.iterations) == 1


def test_accumulated_gradients(accumulating):
    optimizer, _ = accumulating
    (total,) = _compat.accumulated_gradients(optimizer)
    np.testing.assert_allclose(total, [3, 3])


def test_update_step():
    optimizer = keras.optimizers.SGD(0.1, clipnorm=1.0, weight_decay=0.5)
    variable = keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    _compat.update_step(optimizer, [tf.constant([3.0, 4.0])], [variable])
    # Decay by 1 - 0.1 * 0.5, then a step of 0.1 along the gradient, clipped to length 1.
    np.testing.assert_allclose(variable, [0.95 - 0.06, 1.9 - 0.08], rtol=1e-6)
    # The public `apply` counts; this does not.
    assert int(optimizer.iterations) == 0


def test_keras_mask():
    ids = tf.constant([[1, 2, 0]])
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(ids)
    np.testing.assert_array_equal(_compat.keras_mask(embedded), [[True, True, False]])
    assert _compat.keras_mask(ids) is None
    _compat.set_keras_mask(ids, tf.constant([[True, False, False]]))
    np.testing.assert_array_equal(_compat.keras_mask(ids), [[True, False, False]])


def test_a_set_mask_reaches_keras_layers():
    sequence = tf.constant([[[1.0], [3.0], [8.0]]])
    _compat.set_keras_mask(sequence, tf.constant([[True, True, False]]))
    np.testing.assert_allclose(keras.layers.GlobalAveragePooling1D()(sequence), [[2.0]])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_keras_logits(activation):
    logits = tf.constant([[1.0, 2.0]])
    np.testing.assert_array_equal(_compat.keras_logits(keras.layers.Activation(activation)(logits)), logits)
    assert _compat.keras_logits(keras.layers.Activation("relu")(logits)) is None


def test_global_seed_generator():
    keras.utils.set_random_seed(0)
    keras.random.uniform((2,))
    generator = _compat.global_seed_generator()
    state = np.array(generator.state)
    first = np.array(keras.random.uniform((2,)))
    generator.state.assign(state)
    np.testing.assert_array_equal(keras.random.uniform((2,)), first)
    _compat.reset_global_seed_generator()
    assert _compat.global_seed_generator() is None


def test_eager_random_generator():
    tf.random.set_seed(0)
    generator = _compat.eager_random_generator()
    assert isinstance(generator, random.Random)
    state = generator.getstate()
    first = tf.random.uniform((2,)).numpy()
    assert generator.getstate() != state
    generator.setstate(state)
    # Without this, the cached kernel continues its own sequence.
    _compat.clear_kernel_cache()
    np.testing.assert_array_equal(tf.random.uniform((2,)), first)


def test_graph_functions():
    @tf.function
    def loop(x):
        return tf.while_loop(lambda x: tf.reduce_sum(x) < 9, lambda x: (tf.matmul(x, x),), (x,))[0]

    graph = loop.get_concrete_function(tf.TensorSpec((2, 2))).graph
    operations = {op.type for function in _compat.graph_functions(graph) for op in function.graph.get_operations()}
    assert "MatMul" in operations


def test_tuner_callback_class():
    pytest.importorskip("keras_tuner")
    callback = _compat.tuner_callback_class()("tuner", "trial")
    assert isinstance(callback, keras.callbacks.Callback)
    assert callback.tuner == "tuner"


def test_grid():
    keras_tuner = pytest.importorskip("keras_tuner")
    space = keras_tuner.HyperParameters()
    space.Choice("rate", [1, 2, 3])
    oracle = keras_tuner.oracles.GridSearchOracle("loss", hyperparameters=space)
    compare = _compat.grid_comparison(oracle)
    assert [compare({"rate": 1}, {"rate": rate}) for rate in (1, 2)] == [0, -1]
    order = _compat.grid_order(oracle)
    order.insert("a")
    order.insert("b")
    assert order.next("a") == "b"
    assert _compat.grid_queue(oracle) == []


# Methods of named tuples, and protected methods that TFX provides for executors.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_log_startup", "_make_beam_pipeline"}
# Modules that are not public, although their names are.
INTERNAL = ("keras.src", "keras_tuner.src", "tensorflow.python")


def private(name):
    return name.startswith("_") and not name.startswith("__")


def names_of_keras():
    """Private attributes of Keras' base classes, which a subclass could use or override by accident."""
    model = mlp()
    model.compile("sgd", crossentropy())
    model.optimizer.build(model.trainable_variables)
    instances = (
        model,
        keras.layers.Dense(1),
        model.optimizer,
        keras.callbacks.Callback(),
        keras.losses.MeanSquaredError(),
        keras.metrics.Mean(),
        keras.optimizers.schedules.CosineDecay(0.1, 10),
        keras.regularizers.L2(),
    )
    return {name for instance in instances for name in dir(instance) if private(name)}


def own_names(tree):
    """Private names that a module defines: functions, classes, variables and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def used_names(tree):
    """Attributes that a module reads or sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            # getattr, setattr, hasattr and delattr.
            yield from (item.value for item in node.args[1:2] if isinstance(item, ast.Constant))


def imported_names(tree):
    """Full names of the modules and objects that a module imports from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.split(".")[0] != "keras_distill")


def methods(tree):
    """Names of the methods that a module defines, some of which may override methods of other packages."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {item.name for node in classes for item in node.body if isinstance(item, ast.FunctionDef)}


def private_uses(sources, keras_names):
    """`{(file, name)}` of private names of other packages in `{file: source}`."""
    trees = {file: ast.parse(source) for file, source in sources.items()}
    own = {file: set(own_names(tree)) for file, tree in trees.items()}
    everywhere = set().union(DOCUMENTED, *own.values())
    found = set()
    for file, tree in trees.items():
        used, imported = set(used_names(tree)), set(imported_names(tree))
        found |= {(file, name) for name in imported if name.startswith(INTERNAL) or any(map(private, name.split(".")))}
        found |= {(file, name) for name in used if private(name) and name not in everywhere}
        # Names of Keras that the package gives to something else, too.
        found |= {(file, name) for name in used & keras_names - own[file] if private(name)}
        found |= {(file, name) for name in methods(tree) & keras_names}
    return found


def test_private_names_of_other_packages_are_used_in_compat_only():
    sources = {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in PACKAGE.rglob("*.py")
        if path.name != "_compat.py"
    }
    found = private_uses(sources, names_of_keras())
    assert not found, f"Move to keras_distill/_compat.py: {sorted(found)}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from x import _y", "x._y"),
        ("import x._y", "x._y"),
        ("from x._y import z", "x._y.z"),
        ("def f():\n    from x import y, _y as z", "x._y"),
        ("from keras.src.ops import node", "keras.src.ops.node"),
        ("import tensorflow.python.eager as eager", "tensorflow.python.eager"),
        ("x._y", "_y"),
        ("x._y = 1", "_y"),
        ("getattr(x, '_y')", "_y"),
        ("class A:\n    def f(self):\n        return self._track", "_track"),
        ("class A:\n    def _track(self): ...", "_track"),
    ],
)
def test_private_uses_are_found(source, name):
    assert ("a.py", name) in private_uses({"a.py": source}, {"_track"})


@pytest.mark.parametrize(
    "source",
    [
        "from keras_distill import _compat",
        "from keras_distill._compat import grid_order",
        "from __future__ import annotations",
        "import keras\nkeras.Model()",
        "def _y(): ...\nx._y",
        "x.__class__",
    ],
)
def test_own_and_public_names_are_allowed(source):
    assert not private_uses({"a.py": source}, {"_track"})


def test_a_private_import_is_found_beside_an_own_name():
    sources = {"a.py": "from x import _y", "b.py": "def _y(): ..."}
    assert private_uses(sources, set()) == {("a.py", "x._y")}


def test_importing_needs_no_tensorflow_lite():
    code = """
import sys
import keras, tensorflow as tf
# As in a TensorFlow without LiteRT: the module cannot be imported, and the attribute raises an error.
for name in [name for name in sys.modules if name.startswith("tensorflow.lite")]:
    del sys.modules[name]
sys.modules["tensorflow.lite"] = None
vars(tf).pop("lite", None)
tf.__class__ = type("Module", (type(tf),), {"lite": property(lambda self: 1 / 0)})
import keras_distill
from keras_distill import preflight
assert not [name for name in sys.modules if name.startswith("tensorflow.lite.")]
"""
    environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "", "HOME": "/nonexistent"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
