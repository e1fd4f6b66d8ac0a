"""Accuracy bars and learning curves."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.utils.drawing import colors, figure, render_figure, shorten
from keras_distill.utils.formatting import percent_with_spread


def accuracy_bars(results):
    """A bar for each model's mean accuracy and a dot for every seed. Returns a `Picture`."""
    models, chosen = results.models, colors(results)
    accuracies = [[100 * run.accuracy for run in model.runs] for model in models]
    start, end = _zoom([value for values in accuracies for value in values])
    with figure(0.75 + 0.5 * len(models)) as drawn:
        axes = drawn.subplots()
        for row, (model, values) in enumerate(zip(models, accuracies, strict=True)):
            axes.barh(row, np.mean(values) - start, left=start, height=0.36, color=chosen[model.name], alpha=0.75)
            axes.plot(
                values, np.full(len(values), row), "o", ms=4.5, mfc="white", mec="#333333", mew=0.9, clip_on=False
            )
            written = percent_with_spread(model.mean("accuracy"), model.spread("accuracy"))
            _above(axes, row, 0, shorten(model.name, 40), ha="left")
            _above(axes, row, 1, written, ha="right")
        axes.set(xlim=(start, end), ylim=(len(models) - 0.6, -0.6), yticks=[])
        axes.spines["left"].set_visible(start == 0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("test accuracy, %" if start == 0 else f"test accuracy, % (the axis starts at {start:g})")
        alt = "Bars of the mean test accuracy. " + _sentence(
            f"{row.name}: {percent_with_spread(row.accuracy, row.spread)}" for row in results.table()
        )
        axis = "" if start == 0 else f" The axis starts at {start:g} %, not at 0: the bars' lengths exaggerate."
        return render_figure(drawn, alt, "Bars: mean over the seeds. Dots: the seeds, one each." + axis)


def metric_curves(results):
    """A `Picture` per metric of the histories that is not a loss, with all models together."""
    names = {name for model in results.models for name in _measured(model) if not name.endswith("loss")}
    return [_metric_curve(results, name) for name in sorted(names)]


def loss_curves(results):
    """A `Picture` per model that has a history, with a panel for the total loss and for every term."""
    return [_loss_terms(model, colors(results)[model.name]) for model in results.models if _losses(model)]


def _metric_curve(results, name):
    models = [model for model in results.models if name in _measured(model)]
    chosen = colors(results)
    columns = 1 if max(len(model.name) for model in models) > 18 else 2
    with figure(2.7 + 0.2 * -(-len(models) // columns)) as drawn:
        axes = drawn.subplots()
        for model in models:
            _lines(axes, model, name, chosen[model.name], shorten(model.name, 44))
        _settle(axes, [values for model in models for values in _both(model, name)])
        axes.set(xlabel="epoch", title=_title(name))
        drawn.legend(loc="outside lower center", ncols=columns, handlelength=1.6)
        alt = f"Learning curves of {_title(name)}. " + _sentence(_ending(model, name) for model in models)
        return render_figure(drawn, alt, _how_to_read(models, [name]))


def _loss_terms(model, color):
    names = _losses(model)
    with figure(0.65 + 1.25 * len(names)) as drawn:
        panels = drawn.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _lines(axes, model, name, color, None)
            _settle(axes, _both(model, name))
            axes.set_title(_title(name), loc="left")
        panels[-1].set_xlabel("epoch")
        drawn.suptitle(shorten(model.name, 44), fontweight="bold", fontsize=9)
        alt = f"Loss curves of {model.name}. " + _sentence(_ending(model, name) for name in names)
        scales = ["Each panel has a scale of its own."] if len(names) > 1 else []
        return render_figure(drawn, alt, " ".join([*scales, _how_to_read([model], names)]))


def _measured(model):
    """Names in the model's histories, each once for training and validation together."""
    return list(
        dict.fromkeys(
            name.removeprefix("val_") for run in model.runs for name, values in run.history.items() if len(values)
        )
    )


def _losses(model):
    """The total first, then what it is made of in the order of the history."""
    return sorted((name for name in _measured(model) if name.endswith("loss")), key=lambda name: name != "loss")


def _seeds(model, name):
    """One array per seed that has this entry; lengths differ where training stopped early."""
    return [np.asarray(run.history[name], float) for run in model.runs if len(run.history.get(name, ()))]


def _mean(seeds):
    """The mean over the seeds, for as many epochs as all of them trained."""
    return np.mean([values[: min(map(len, seeds))] for values in seeds], axis=0)


def _both(model, name):
    return [values for key in (name, f"val_{name}") for values in _seeds(model, key)]


def _lines(axes, model, name, color, label):
    """Solid for validation and dashed for training; a thin line for each seed and a thick one for their mean."""
    for key, style in ((f"val_{name}", "-"), (name, (0, (3, 1.5)))):
        seeds = _seeds(model, key)
        if not seeds:
            continue
        if len(seeds) > 1:
            for values in seeds:
                axes.plot(_epochs(values), values, color=color, linestyle=style, linewidth=0.5, alpha=0.4)
        mean = _mean(seeds)
        # A line through one epoch would be invisible.
        marker = "o" if len(mean) < 3 else None
        axes.plot(_epochs(mean), mean, color=color, linestyle=style, marker=marker, markersize=3.5, label=label)
        label = None


def _epochs(values):
    return np.arange(1, len(values) + 1)


def _settle(axes, series):
    """Axis limits that leave out the steep first tenth, so that the differences at the end can be seen."""
    late = np.concatenate([values[len(values) // 10 :] for values in series])
    late = late[np.isfinite(late)]
    if len(late):
        margin = 0.08 * (late.max() - late.min()) or 0.05 * abs(late.max()) or 0.05
        axes.set_ylim(late.min() - margin, late.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(True, axis="y")


def _zoom(values):
    """Start and end of the accuracy axis in percent: 0 unless the values are close to one another."""
    low, high = min(values), max(values)
    start = low - max(0.6 * (high - low), 0.5)
    if not np.isfinite(start) or start < high / 3:
        return 0, 100
    step = 10 ** np.floor(np.log10(high - start))
    return max(0.0, round(float(np.floor(start / step) * step), 6)), min(100.0, high + 0.1 * (high - start))


def _above(axes, row, x, text, ha):
    axes.annotate(text, (x, row - 0.24), xycoords=axes.get_yaxis_transform(), ha=ha, va="bottom")


def _title(name):
    return name.replace("_", " ")


def _how_to_read(models, names):
    """What the lines of this very figure mean."""
    validation = [_seeds(model, f"val_{name}") for model in models for name in names]
    training = [_seeds(model, name) for model in models for name in names]
    parts = [
        text for text, found in (("Solid: validation.", validation), ("Dashed: training.", training)) if any(found)
    ]
    if any(len(seeds) > 1 for seeds in validation + training):
        parts.append("Thick: mean over the seeds; thin: the seeds.")
    if any(len(values) >= 10 for seeds in validation + training for values in seeds):
        parts.append("The first epochs may lie outside the axis.")
    return " ".join(parts)


def _ending(model, name):
    key = f"val_{name}" if _seeds(model, f"val_{name}") else name
    mean = _mean(_seeds(model, key))
    return f"{model.name}, {_title(key)}: from {mean[0]:.4g} to {mean[-1]:.4g} in {len(mean)} epochs"


def _sentence(parts):
    return "; ".join(parts) + "."
