"""Docstrings of the public API: complete, and their examples run."""

import doctest
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill
from tests.support.public import PACKAGES, PUBLIC

# Made by the library, not by users.
RETURNED = {
    "Batch",
    "Cache",
    "Copied",
    "Example",
    "Exported",
    "Finding",
    "ModelResult",
    "Profile",
    "Results",
    "Row",
    "Run",
    "Search",
    "Tappable",
    "TeacherCache",
    "Traced",
    "TrimmedVocabulary",
}
ABSTRACT = {"BaseDistiller", "DistillationLoss", "DistillationMetric", "Head", "MeanMetric", "Schedule", "Teacher"}


def parameters(value):
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and "__init__" not in vars(value) and not hasattr(value, "__dataclass_fields__"):
        return []
    names = []
    for parameter in list(inspect.signature(function).parameters.values()):
        if parameter.name == "self" or parameter.name.startswith("_"):
            continue
        if inspect.isclass(value) and parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        names.append(parameter.name)
    return names


def described(value):
    """Names that the docstring describes in its sections Args and Attributes; a class's bases count."""
    docs = [inspect.getdoc(c) or "" for c in (value.__mro__ if inspect.isclass(value) else [value])]
    text = "\n".join(docs)
    sections = re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
    return set(re.findall(r"^[ ]{4}\*{0,2}(\w+):", "\n".join(sections), re.MULTILINE))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_argument_is_described(name):
    value = PUBLIC[name]
    assert inspect.getdoc(value), f"{name} has no docstring"
    optional = {"name", "dtype"} if inspect.isclass(value) else set()
    missing = set(parameters(value)) - described(value) - optional
    assert not missing, f"{name} does not describe {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_raised_errors_are_listed(name):
    value = PUBLIC[name]
    function = value
    if inspect.isclass(value):
        # The constructor of a dataclass is generated.
        function = vars(value).get("__post_init__") or vars(value).get("__init__")
    if function is None or inspect.unwrap(function).__code__.co_filename == "<string>":
        return
    raised = set(re.findall(r"raise (?:\w+\.)*([A-Z]\w+)\(", inspect.getsource(inspect.unwrap(function))))
    missing = raised - listed_errors(own_docstring(value))
    assert not missing, f"{name} raises {sorted(missing)}, which its section Raises does not list"


def own_docstring(value):
    """The docstring of a class or function itself, not one that it inherits."""
    return inspect.cleandoc(value.__doc__ or "")


def listed_errors(docstring):
    """Names of the errors in the section Raises of a docstring."""
    section = re.search(r"^Raises:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return set(re.findall(r"^[ ]{4}(\w+):", section[1], re.MULTILINE)) if section else set()


def test_listed_errors():
    docstring = "Load it.\n\nRaises:\n    ValueError: If KeyError:\n        OSError: only text.\n    TypeError: Else.\n"
    assert listed_errors(docstring) == {"ValueError", "TypeError"}
    assert listed_errors("Load it.\n\nReturns:\n    ValueError: No.\n") == set()


def test_an_inherited_docstring_is_not_a_class_s_own():
    class Documented:
        """Text."""

    class Derived(Documented):
        pass

    assert own_docstring(Documented) == "Text." and own_docstring(Derived) == ""


def models():
    def network(channels, names, strides, name):
        layers = [keras.Input((8, 8, 3))]
        for block, stride in zip(names, strides):
            layers.append(keras.layers.Conv2D(channels, 3, stride, "same", activation="relu", name=block))
        layers += [keras.layers.GlobalAveragePooling2D(name="features"), keras.layers.Dense(3, name="logits")]
        return keras.Sequential(layers, name=name)

    student = network(8, ["block_1", "block_2"], [1, 2], "student")
    teacher = network(16, ["block_1", "block_2", "block_3", "block_4"], [1, 1, 2, 1], "teacher")
    functional = [keras.Model(model.inputs[0], model.outputs[0], name=model.name) for model in (student, teacher)]
    return dict(zip(("student", "teacher"), functional))


def namespace():
    names = {"keras": keras, "np": np, "tf": tf, "ops": keras.ops, "keras_distill": keras_distill}
    for package in PACKAGES:
        names |= {name: getattr(package, name) for name in package.__all__}
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 8, 8, 3)).astype("float32"), random.integers(0, 3, 32)
    return names | models() | {"x": x, "y": y}


WITH_EXAMPLES = {name: value for name, value in PUBLIC.items() if ">>>" in own_docstring(value)}
# The package itself: an example of the whole, which `help(keras_distill)` shows.
WITH_EXAMPLES["keras_distill"] = keras_distill


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES))
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = WITH_EXAMPLES[name]
    # Methods too.
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(value, name, globs=namespace()):
        output = []
        results = runner.run(test, out=output.append)
        assert not results.failed, "".join(output)
        # An example may be marked with `+SKIP`, but not all of them.
        assert results.attempted or not test.examples, f"{test.name}: no example ran"
    assert runner.tries > 0


def test_classes_that_users_make_have_an_example():
    missing = [
        name
        for name, value in PUBLIC.items()
        if inspect.isclass(value)
        and value.__name__ not in RETURNED | ABSTRACT
        and ">>>" not in own_docstring(value)
        and not issubclass(value, Exception)
    ]
    assert not missing, missing
