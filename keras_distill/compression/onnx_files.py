"""Export to ONNX files."""

import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_distill.models.specs import input_specs
from keras_distill.types import Structure


def write_onnx(model: keras.Model, path: str | os.PathLike, inputs: Structure | None = None) -> None:
    """Write a model to an ONNX file.

    Args:
        model: A built `keras.Model`.
        path: Path of the file.
        inputs: Structure of `tf.TensorSpec` of a batch; their names are those in the file. None reads them from the
            model. Defaults to None.

    Raises:
        ValueError: If tf2onnx is not installed, or ONNX lacks an operation of the model. The error names it.
        OSError: If the file cannot be written.
    """
    signature = input_specs(None, model) if inputs is None else inputs
    try:
        model.export(path, format="onnx", verbose=False, input_signature=[signature])
    except ImportError as error:
        raise ValueError(
            f"The format 'onnx' requires tf2onnx. Run: pip install 'keras-distill[export]'. ({error})"
        ) from error
    except OSError:
        # The path is at fault, not the model.
        raise
    except Exception as error:
        raise ValueError(f"'{model.name}' cannot be exported to ONNX: {type(error).__name__}: {error}") from error
    _replace_erfc(path)
    _check_operations(model.name, path)


def _replace_erfc(path):
    """Replace Erfc(x), which ONNX does not define, by 1 - Erf(x). Keras' exact `gelu` computes it."""
    import onnx

    file = onnx.load(os.fspath(path))
    if _replace_in(file.graph, onnx.helper.make_node):
        onnx.save(file, os.fspath(path))


def _check_operations(name, path):
    """Raise for an operation that ONNX does not define: tf2onnx only logs it."""
    import onnx

    for node in _nodes(onnx.load(os.fspath(path), load_external_data=False).graph):
        if not onnx.defs.has(node.op_type, node.domain):
            raise ValueError(
                f"'{name}' cannot be exported to ONNX, which has no operation {node.op_type}. It computes "
                f"'{node.name}'."
            )


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs inside its loops and conditions."""
    for node in graph.node:
        yield node
        for part in node.attribute:
            if part.HasField("g"):
                yield from _nodes(part.g)


def _replace_in(graph, make_node):
    """Replace the nodes of a graph and of the graphs inside its loops and conditions; return how many."""
    nodes, replaced = [], 0
    for node in graph.node:
        replaced += sum(_replace_in(part.g, make_node) for part in node.attribute if part.HasField("g"))
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        (x,), (result,) = node.input, node.output
        one, one_like_x, erf = (f"{result}_{part}" for part in ("one", "one_like_x", "erf"))
        nodes += [
            make_node("Constant", [], [one], value_float=1.0),
            # In half precision, x is not float32.
            make_node("CastLike", [one, x], [one_like_x]),
            make_node("Erf", [x], [erf]),
            make_node("Sub", [one_like_x, erf], [result]),
        ]
        replaced += 1
    if replaced:
        del graph.node[:]
        graph.node.extend(nodes)
    return replaced
