"""Export to ONNX files."""

import os

import keras

from keras_distill.models.specs import input_specs


def write_onnx(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a model to an ONNX file.

    Args:
        model: A built `keras.Model`.
        path: Path of the file.

    Raises:
        ValueError: If tf2onnx is not installed.
    """
    try:
        model.export(path, format="onnx", verbose=False, input_signature=[input_specs(None, model)])
    except ImportError as error:
        raise ValueError(
            f"The format 'onnx' requires tf2onnx. Run: pip install 'keras-distill[export]'. ({error})"
        ) from error
    _replace_erfc(path)


def _replace_erfc(path):
    """Replace Erfc(x), which ONNX does not define, by 1 - Erf(x). Keras' exact `gelu` computes it."""
    import onnx

    file = onnx.load(os.fspath(path))
    if _replace_in(file.graph, onnx.helper.make_node):
        onnx.save(file, os.fspath(path))


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
