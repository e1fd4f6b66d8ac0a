"""Before any test: quiet, seeded, and four logical devices for the tests with replicas."""

import gc
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import pytest
import tensorflow as tf

import keras_distill  # noqa: F401

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
tf.get_logger().setLevel("ERROR")

# Minutes each. Begun last, one of them would keep a single process busy while the others are done.
LONG_FILES = (
    "test_contract.py",
    "test_recipes.py",
    "test_backup.py",
    "test_tuning.py",
    "test_cli_walk.py",
    "test_recipes_are_sound.py",
)


def pytest_collection_modifyitems(items):
    """Long files first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(autouse=True)
def clean():
    """Each test starts from the same seed, in float32, and with automatic names from the first on."""
    keras.utils.clear_session()
    # Keras has just collected garbage. What is left outlives its test, and to look through it again before each of the
    # next ones would take longer and longer.
    gc.freeze()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
