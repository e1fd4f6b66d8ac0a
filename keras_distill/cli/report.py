"""Command `keras-distill report`."""

import argparse
import pathlib

from .common import CommandError, Commands, add_command, add_force, add_output, as_command_error


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "report",
        usage="DIR [options]",
        summary="regenerate the report of a run, or the plots of a hyperparameter search",
        description="Write report.html from the results.json of a `distill` run or of a recipe. For a directory of "
        "KerasTuner, write plots of the search instead, whether it has finished or not.",
        examples=(
            "keras-distill report run",
            "keras-distill report run --out=page.html",
            "keras-distill report runs/search --objective=val_accuracy --out=plots",
        ),
        notes="\nRequires jinja2 and matplotlib: pip install jinja2 matplotlib",
    )
    parser.add_argument("directory", metavar="DIR", help="directory written by `distill`, a recipe or a tuner")
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
        help="report to write (default: DIR/report.html, replaced if it exists), or directory of the plots of a search "
        "(default: DIR/plots)",
    )
    add_force(output, "the files that --out names")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report or the plots."""
    directory = pathlib.Path(options.directory)
    if options.out and pathlib.Path(options.out).exists() and not options.force:
        raise CommandError(f"{options.out} already exists. Choose another --out, or replace it with --force.")
    with as_command_error(f"cannot write a report of {directory}"):
        if (directory / "results.json").is_file():
            path = _write_report(directory / "results.json", pathlib.Path(options.out or directory / "report.html"))
        elif (directory / "oracle.json").is_file():
            path = _write_plots(directory, options.objective, pathlib.Path(options.out or directory / "plots"))
        else:
            raise CommandError(
                f"cannot write a report of {directory}: it contains neither a results.json (from `distill` or a "
                "recipe) nor an oracle.json (from a tuner)."
            )
    print(f"Wrote {path}")


def _write_report(path: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    from keras_distill.report import Results, write_page

    try:
        results = Results.load(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CommandError(
            f"cannot write a report of {path}: it is not a complete results.json of this version ({error}). Rerun the "
            "command that wrote it."
        ) from error
    write_page(results, out)
    return out


def _write_plots(directory: pathlib.Path, objective: str, out: pathlib.Path) -> pathlib.Path:
    from keras_distill.report import draw_search, read_search

    search = read_search(directory, objective)
    if not search.ranked():
        raise CommandError(f"cannot write plots of {directory}: no trial has completed yet. Continue the search first.")
    draw_search(search, out)
    return out
