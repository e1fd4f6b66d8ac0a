"""Figures of learning curves and losses."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.experiment.results import Results
from keras_distill.utils.drawing import Figure, colors, figure, shorten


def metric_curves(results: Results) -> list[Figure]:
    """Draw the learning curves of all models, one figure per metric of the histories that is not a loss.

    Args:
        results: A `Results`.
    """
    names = {name for model in results.models for name in _logged_names(model) if not name.endswith("loss")}
    return [_metric_curve(results, name) for name in sorted(names)]


def loss_curves(results: Results) -> list[Figure]:
    """Draw the loss curves, one figure per model that has a history, with a panel for the total and for each term.

    Args:
        results: A `Results`.
    """
    return [_loss_panels(model, colors(results)[model.name]) for model in results.models if _losses(model)]


def _metric_curve(results, name):
    models = [model for model in results.models if name in _logged_names(model)]
    chosen = colors(results)
    columns = 1 if max(len(model.name) for model in models) > 18 else 2
    with figure(2.7 + 0.2 * -(-len(models) // columns)) as canvas:
        axes = canvas.subplots()
        for model in models:
            _draw_lines(axes, model, name, chosen[model.name], shorten(model.name, 44))
        _set_limits(axes, [values for model in models for values in _training_and_validation(model, name)])
        axes.set(xlabel="epoch", title=_title(name))
        canvas.legend(loc="outside lower center", ncols=columns, handlelength=1.6)
        alt = f"Learning curves of {_title(name)}. " + _sentence(_first_and_last(model, name) for model in models)
        return Figure(canvas, alt, _legend_text(models, [name]))


def _loss_panels(model, color):
    names = _losses(model)
    with figure(0.65 + 1.25 * len(names)) as canvas:
        panels = canvas.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _draw_lines(axes, model, name, color, None)
            _set_limits(axes, _training_and_validation(model, name))
            axes.set_title(_title(name), loc="left")
        panels[-1].set_xlabel("epoch")
        canvas.suptitle(shorten(model.name, 44), fontweight="bold", fontsize=9)
        alt = f"Loss curves of {model.name}. " + _sentence(_first_and_last(model, name) for name in names)
        scales = ["The scale differs from panel to panel."] if len(names) > 1 else []
        return Figure(canvas, alt, " ".join([*scales, _legend_text([model], names)]))


def _logged_names(model):
    """Return the names in the model's histories, once for training and validation together."""
    return list(
        dict.fromkeys(
            name.removeprefix("val_") for run in model.runs for name, values in run.history.items() if len(values)
        )
    )


def _losses(model):
    """Return the names of the losses: the total first, then its terms in the order of the history."""
    return sorted((name for name in _logged_names(model) if name.endswith("loss")), key=lambda name: name != "loss")


def _curves(model, name):
    """Return one array per seed that logged this name. Lengths differ where training stopped early."""
    return [np.asarray(run.history[name], float) for run in model.runs if len(run.history.get(name, ()))]


def _mean_curve(curves):
    """Return the mean over the seeds, for as many epochs as all of them trained."""
    return np.mean([values[: min(map(len, curves))] for values in curves], axis=0)


def _training_and_validation(model, name):
    return [values for key in (name, f"val_{name}") for values in _curves(model, key)]


def _draw_lines(axes, model, name, color, label):
    """Draw validation solid and training dashed, each with a thin line per seed and a thick one for their mean."""
    for key, style in ((f"val_{name}", "-"), (name, (0, (3, 1.5)))):
        curves = _curves(model, key)
        if not curves:
            continue
        if len(curves) > 1:
            for values in curves:
                axes.plot(_epochs(values), values, color=color, linestyle=style, linewidth=0.5, alpha=0.4)
        mean = _mean_curve(curves)
        # A line through one epoch would be invisible.
        marker = "o" if len(mean) < 3 else None
        axes.plot(_epochs(mean), mean, color=color, linestyle=style, marker=marker, markersize=3.5, label=label)
        label = None


def _epochs(values):
    return np.arange(1, len(values) + 1)


def _set_limits(axes, series):
    """Set axis limits that leave out the steep first tenth, so that differences at the end are visible."""
    late = np.concatenate([values[len(values) // 10 :] for values in series])
    late = late[np.isfinite(late)]
    if len(late):
        margin = 0.08 * (late.max() - late.min()) or 0.05 * abs(late.max()) or 0.05
        axes.set_ylim(late.min() - margin, late.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(True, axis="y")


def _title(name):
    return name.replace("_", " ")


def _legend_text(models, names):
    """Return the sentences that explain the lines of a figure."""
    validation = [_curves(model, f"val_{name}") for model in models for name in names]
    training = [_curves(model, name) for model in models for name in names]
    sentences = [
        text for text, curves in (("Solid: validation.", validation), ("Dashed: training.", training)) if any(curves)
    ]
    if any(len(curves) > 1 for curves in validation + training):
        sentences.append("Thick: mean over the seeds; thin: single seeds.")
    if any(len(values) >= 10 for curves in validation + training for values in curves):
        sentences.append("The first epochs may lie outside the axis.")
    return " ".join(sentences)


def _first_and_last(model, name):
    key = f"val_{name}" if _curves(model, f"val_{name}") else name
    mean = _mean_curve(_curves(model, key))
    epochs = "1 epoch" if len(mean) == 1 else f"{len(mean)} epochs"
    return f"{model.name}, {_title(key)}: from {mean[0]:.4g} to {mean[-1]:.4g} in {epochs}"


def _sentence(parts):
    return "; ".join(parts) + "."
