"""keras-distill report"""

import pathlib

from .common import CommandError, add_force, as_command_error, command


def add(commands):
    parser = command(
        commands,
        "report",
        "draw the page of a run, or the pictures of a search, anew",
        "Draws report.html from the results.json of a run of `distill` or of a recipe; or, of a search by KerasTuner, "
        "finished or not, its pictures.",
        "keras-distill report run",
        "keras-distill report run --out=page.html",
        "keras-distill report runs/search --objective=val_accuracy --out=pictures",
        after="\nIt needs jinja2 and matplotlib: pip install 'keras-distill[recipes]'",
    )
    parser.add_argument("directory", metavar="DIR", help="what `distill`, a recipe or a tuner wrote")
    parser.add_argument(
        "--out", help="the page, default DIR/report.html, which is replaced; of a search the folder, DIR/pictures"
    )
    parser.add_argument(
        "--objective", default="val_accuracy", metavar="METRIC", help="of a search; default val_accuracy"
    )
    add_force(parser, "what --out names")
    parser.set_defaults(run=run)


def run(options):
    folder = pathlib.Path(options.directory)
    if options.out and pathlib.Path(options.out).exists() and not options.force:
        raise CommandError(f"{options.out} is there already. Choose another --out, or replace it with --force.")
    with as_command_error(f"cannot draw {folder}"):
        if (folder / "results.json").is_file():
            written = _page(folder / "results.json", pathlib.Path(options.out or folder / "report.html"))
        elif (folder / "oracle.json").is_file():
            written = _pictures(folder, options.objective, pathlib.Path(options.out or folder / "pictures"))
        else:
            raise CommandError(
                f"cannot draw {folder}: there is neither a results.json, as `distill` and the recipes write it, nor "
                "the oracle.json of a tuner."
            )
    print(f"Written: {written}")


def _page(path, out):
    from keras_distill.report import Results, write_page

    try:
        results = Results.load(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CommandError(
            f"cannot draw {path}: it is no results.json of keras_distill, or not a whole one."
        ) from error
    write_page(results, out)
    return out


def _pictures(folder, objective, out):
    from keras_distill.report import draw_search, read_search

    search = read_search(folder, objective)
    if not search.ranked():
        raise CommandError(f"cannot draw {folder}: no trial has been completed yet.")
    draw_search(search, out)
    return out
