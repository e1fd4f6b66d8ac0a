"""Before any test: quiet, seeded, and four logical devices for the tests with replicas."""

import gc
import logging
import os
import re

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import pytest
import tensorflow as tf

import keras_distill  # noqa: F401

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# Minutes each. Started last, one of them would keep a single process busy while the others are idle.
LONG_FILES = (
    "test_contract.py",
    "test_recipes.py",
    "test_backup.py",
    "test_backup_processes.py",
    "test_tuners.py",
    "test_hypermodel.py",
    "test_walk.py",
    "test_preflight.py",
)


class Deprecations(logging.Handler):
    """Collects deprecations that TensorFlow logs for calls from this package; warning filters do not see them."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        if re.match(r"From \S*keras_distill/.*deprecated", message, re.DOTALL):
            self.messages.append(message)


deprecations = Deprecations()
tf.get_logger().handlers = [deprecations]


def pytest_xdist_auto_num_workers(config):
    """Use one process per core for the whole suite only: some files or a folder are faster in a single process."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_addoption(parser):
    parser.addoption("--cases", help="run only the tests of these cases, such as A1,B2; see tests/cases.py")


def pytest_collection_modifyitems(config, items):
    """Start long files first, and choose the tests of `--cases`."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        item.user_properties += [("case", marker.args[0]) for marker in item.iter_markers("case")]
    if config.getoption("cases"):
        chosen = set(config.getoption("cases").split(","))
        items[:] = [item for item in items if chosen & {marker.args[0] for marker in item.iter_markers("case")}]


@pytest.fixture(autouse=True)
def clean():
    """Start each test with the same seed, in float32, with automatic names numbered from the first."""
    _assert_no_deprecations("before this test: by the collection or a fixture of its module or session")
    keras.utils.clear_session()
    # Keras has just collected garbage. Frozen objects are not searched again before each of the following tests.
    gc.freeze()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    _assert_no_deprecations("in this test")


def _assert_no_deprecations(when):
    # Cleared, so that each message fails a single test.
    messages = deprecations.messages.copy()
    deprecations.messages.clear()
    assert not messages, f"Deprecated calls {when}: {messages}"
