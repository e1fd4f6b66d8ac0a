"""Command `keras-distill report`."""

import argparse
import os
import pathlib
from typing import TYPE_CHECKING

from .common import CommandError, Commands, add_command, add_force, add_output, as_command_error

if TYPE_CHECKING:
    from keras_distill.experiment import Results


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "report",
        usage="DIR [DIR ...] [options]",
        summary="regenerate the report of a run, compare runs, or plot a hyperparameter search",
        description="Write report.html from the results.json of a `distill` run, a recipe or an experiment. For "
        "several directories, write one page that compares the runs. For a directory of KerasTuner, write plots of the "
        "search instead, whether it has finished or not.",
        examples=(
            "keras-distill report run",
            "keras-distill report run --out=page.html",
            "keras-distill report run_1 run_2 --out=comparison.html",
            "keras-distill report runs/search --objective=val_accuracy --out=plots",
        ),
        notes="\nRequires jinja2 and matplotlib: pip install jinja2 matplotlib",
    )
    parser.add_argument(
        "directories", nargs="+", metavar="DIR", help="directory written by `distill`, a recipe or a tuner"
    )
    parser.add_argument(
        "--objective",
        default="val_accuracy",
        metavar="METRIC",
        help="objective of the hyperparameter search (default: val_accuracy)",
    )
    output = add_output(
        parser,
        required=False,
        metavar="PATH",
        help="report to write (default: DIR/report.html, replaced if it exists; comparison.html for several runs), or "
        "directory of the plots of a search (default: DIR/plots)",
    )
    add_force(output, "the files that --out names")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report, the comparison or the plots."""
    directories = [pathlib.Path(name) for name in options.directories]
    several = len(directories) > 1
    out = options.out or ("comparison.html" if several else None)
    if out and pathlib.Path(out).exists() and not options.force:
        raise CommandError(f"{out} already exists. Choose another --out, or replace it with --force.")
    names = " and ".join(map(str, directories))
    with as_command_error(f"cannot write a report of {names}"):
        if several:
            path = _write_comparison(directories, pathlib.Path(out))
        elif (directories[0] / "results.json").is_file():
            path = _write_report(directories[0], pathlib.Path(out or directories[0] / "report.html"))
        elif (directories[0] / "oracle.json").is_file():
            path = _write_plots(directories[0], options.objective, pathlib.Path(out or directories[0] / "plots"))
        else:
            raise CommandError(
                f"cannot write a report of {directories[0]}: it contains neither a results.json (from `distill` or a "
                "recipe) nor an oracle.json (from a tuner)."
            )
    print(f"Wrote {path}")


def _write_report(directory: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    from keras_distill.report import write_page

    write_page(_load(directory), out)
    return out


def _write_comparison(directories: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    from keras_distill.report import write_comparison_page

    labels = _labels(directories)
    links = {
        label: os.path.relpath(directory / "report.html", out.parent)
        for label, directory in zip(labels, directories)
        if (directory / "report.html").exists()
    }
    runs = {label: _load(directory) for label, directory in zip(labels, directories)}
    write_comparison_page(runs, out, links)
    return out


def _labels(directories):
    """Return the names of the directories; the whole paths if two have the same name."""
    names = [directory.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory) for directory in directories]


def _load(directory: pathlib.Path) -> "Results":
    from keras_distill.experiment import Results

    path = directory / "results.json"
    try:
        return Results.load(path)
    except FileNotFoundError:
        raise CommandError(f"cannot write a report of {directory}: it contains no results.json.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CommandError(
            f"cannot write a report of {path}: it is not a complete results.json of this version ({error}). Rerun the "
            "command that wrote it."
        ) from error


def _write_plots(directory: pathlib.Path, objective: str, out: pathlib.Path) -> pathlib.Path:
    from keras_distill.report import draw_search
    from keras_distill.tuning import read_search

    search = read_search(directory, objective)
    if not search.ranked():
        raise CommandError(f"cannot write plots of {directory}: no trial has completed yet. Continue the search first.")
    draw_search(search, out)
    return out
