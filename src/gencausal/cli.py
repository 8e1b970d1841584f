"""`gencausal`: run notebooks, look after data, check and compare claims, write reports."""

import argparse
import os
import sys
from collections.abc import Sequence

from gencausal import notebook
from gencausal.checks import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for a failure, 2 for a command that cannot be run, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except (InputError, FileNotFoundError, ValueError) as error:
        print(f"gencausal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gencausal: interrupted; run the same command again to continue from the last checkpoint.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gencausal", description="A reproducibility study of generative causal inference.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function, text: str, **options) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=options.pop("description", text), **options)
        made.set_defaults(command=function)
        return made

    def profile(made: argparse.ArgumentParser, default: str) -> None:
        made.add_argument("--profile", default=default, help=f"{', '.join(notebook.PROFILES)} (default {default})")

    made = command("run", _run, "execute notebooks at a profile", description="Execute notebooks with the parameters of a profile, into build/<profile>/.")
    made.add_argument("name", nargs="+", help="such as 02a_score_distillation")
    profile(made, "smoke")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter over the profile's value, read as YAML; may be given several times")
    made.add_argument("--seed", type=int, help="only train this seed, so that the whole notebook finds its checkpoints")
    made.add_argument("--threads", type=int, help="threads of the numeric libraries (default: OMP_NUM_THREADS, else all cores)")

    made = command("notebooks", _notebooks, "rebuild notebooks/*.ipynb, executed at smoke size")
    made.add_argument("name", nargs="*", help="only these (default: all)")

    made = command("data", _data, "list, check or fetch the data sets")
    made.add_argument("action", choices=("list", "check", "get"))
    made.add_argument("name", nargs="*", help="get: only these data sets (default: all)")

    made = command("claims", _claims, "check ledger, cells, equation keys and printed verdicts", description=(
        "Check that every claim has its cell and every cell its claim, that every equation key of a notebook stands in src and in tests, "
        "and that the published table, the index and README print the verdicts that the published rows give."))
    made.add_argument("action", choices=("check",))

    made = command("report", _report, "write build/<profile>/reports/ from what was run")
    profile(made, "laptop")

    made = command("compare", _compare, "put a run beside the published report", description=(
        "Print the path of the report, the verdict counts of this run, and for each claim with a number whether it lies in the published 95 % interval. "
        "Smoke and laptop use fewer units and seeds than the published full run, so a number outside is only printed. "
        "The exit status is 1 where a claim published as reproduced is refuted by this run: its interval lies on the other side."))
    profile(made, "laptop")

    command("restore", _restore, "fill build/full/ from the published reports/", description=(
        "Put rows and run records of the published notebooks back under build/full/, so that one notebook can be run anew or added without running all. "
        "Notebooks that were not run here then keep their published page: its text, code, outputs and figures; claims are judged from the rows. "
        "What was run here stays. A notebook that changed since it was published is left out. "
        "Then: gencausal run NAME --profile full, the notebooks that read all rows (00_overview, 06_claims), and gencausal publish."))

    command("bundle", _bundle, "one archive of reports, rows, notebooks, lock and run records", description=(
        "Write build/gencausal-bundle.zip: the published reports with rows and run records, notebooks (executed ones where they were run here), ledger, parameters and lock, described as an RO-Crate."))
    command("stale", _stale, "name the published pages whose notebook, modules or parameters have changed, and mark them",
            description="Name the published pages whose notebook, modules or parameters have changed since, and say so on their face; the exit status is 1 where there are any.")
    command("readme", _readme, "write the verdicts and the picture of README.md from reports/results")

    made = command("publish", _publish, "copy a finished full run of a clean commit to reports/")
    profile(made, "full")
    made.add_argument("--without", nargs="+", default=[], metavar="NAME", help="notebooks never published whose run is still to come: the index says so of them and of their claims")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from gencausal import run

    settings = dict(notebook.parse_setting(text) for text in arguments.set)
    for name in arguments.name:
        notebook.plan(name, arguments.profile, arguments.seed, settings)
    for name in arguments.name:
        try:
            path = run.run(name, arguments.profile, arguments.seed, settings, arguments.threads)
        except run.RunError as error:
            print(f"gencausal: {error}\n\nThe notebook as far as it came: {_short(error.path)}", file=sys.stderr)
            return 1
        print(f"{name} ({arguments.profile}{f', seed {arguments.seed}' if arguments.seed is not None else ''}): {_short(path)}")
    return 0


def _notebooks(arguments: argparse.Namespace) -> int:
    from gencausal import run

    try:
        for path in run.build_notebooks(arguments.name):
            print(_short(path))
    except run.RunError as error:
        print(f"gencausal: {error}", file=sys.stderr)
        return 1
    return 0


def _data(arguments: argparse.Namespace) -> int:
    from gencausal.data import registry

    if arguments.action == "get":
        return registry.get_data(arguments.name)
    if arguments.name:
        raise InputError(f"'gencausal data {arguments.action}' takes no names; leave '{arguments.name[0]}' out.")
    return registry.list_data() if arguments.action == "list" else registry.check_data()


def _claims(arguments: argparse.Namespace) -> int:
    from gencausal import claims, report

    problems = report.check()
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        rows = claims.ledger()
        print(f"{len(rows)} claims: {sum(claim.runs for claim in rows)} with a rule and a cell, {sum(not claim.runs for claim in rows)} not run.")
    return 1 if problems else 0


def _report(arguments: argparse.Namespace) -> int:
    from gencausal import report

    print(_short(report.build(arguments.profile)))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from gencausal import claims

    notebook.check_profile(arguments.profile)
    text, status = claims.compare(arguments.profile)
    print(text)
    return status


def _restore(arguments: argparse.Namespace) -> int:
    from gencausal import report

    print("\n".join(report.restore()))
    return 0


def _bundle(arguments: argparse.Namespace) -> int:
    from gencausal.report import bundle

    print(_short(bundle.build()))
    return 0


def _stale(arguments: argparse.Namespace) -> int:
    from gencausal import report

    changed = report.stale()
    print("\n".join(f"{name}: {file} changed since it was published" for name, file in changed.items()) or "Every published page was made by what is here.")
    return int(bool(changed))


def _readme(arguments: argparse.Namespace) -> int:
    from gencausal.claims import guards
    from gencausal.report import layout

    print(_short(guards.write_readme(layout.SYSTEMS)))
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from gencausal import report

    print(_short(report.publish(arguments.profile, tuple(arguments.without))))
    return 0


def _short(path) -> str:
    """`path` below the working directory where it is there."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


if __name__ == "__main__":
    sys.exit(main())
