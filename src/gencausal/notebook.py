"""Notebook sources: read, numbered, and their parameters checked before anything runs.

The source of a notebook is `notebooks/NN_name.py` in py:percent form. It becomes a NotebookNode in memory, in that direction
only, with cell ids that depend on the text alone, so that two builds agree byte for byte and a report can link to a cell.

The cell tagged `parameters` holds flat literals (bool, int, float, str, or a list of one of these). It is read as a syntax tree,
never executed, because papermill would accept a mistyped name with a warning and turn foreign types into strings.
"""

import ast
import difflib
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from gencausal import paths
from gencausal.checks import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode

PROFILES = ("smoke", "laptop", "full", "paper")
SCALARS = (bool, int, float, str)


def names() -> list[str]:
    """Names of all notebooks (`00_overview` ...), in reading order."""
    return sorted(p.stem for p in (paths.root() / "notebooks").glob("[0-9][0-9]*_*.py"))


def source_path(name: str) -> Path:
    """The source file of notebook `name`; InputError with the nearest name if there is none."""
    path = paths.root() / "notebooks" / f"{name}.py"
    if not re.fullmatch(r"[A-Za-z0-9_]+", name) or not path.is_file():
        raise InputError(f"There is no notebook '{name}'{_nearest(name, names())}; the notebooks are {', '.join(names())}.")
    return path


def read(name: str) -> "NotebookNode":
    """Notebook `name` without outputs, cell ids `sha256(name/index/source)[:12]`, kernel `python3`."""
    return parse(source_path(name).read_text(encoding="utf-8"), name)


def parse(text: str, name: str) -> "NotebookNode":
    """The NotebookNode of py:percent `text`; InputError if the header does not name the kernel `python3`."""
    sys.modules.setdefault("rfc3987_syntax", None)  # an optional IRI checker that takes jsonschema seconds to compile; nbformat never uses it
    import jupytext
    import nbformat

    notebook = jupytext.reads(text, fmt="py:percent")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        raise InputError(f"The header of notebooks/{name}.py does not name the kernel; write 'kernelspec' with 'name: python3' into it.")
    notebook.metadata = nbformat.from_dict({"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{name}/{index}/{cell.source}".encode()).hexdigest()[:12]
    return notebook


def parameters(notebook: "NotebookNode", name: str) -> dict:
    """The defaults of the one cell tagged `parameters`, in order; InputError for anything but flat literals."""
    tagged = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"Notebook {name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one.")
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target = statement.target
        else:
            raise InputError(f"The parameters cell of {name} holds more than assignments (line {statement.lineno}); write only 'name = literal'.")
        if not isinstance(target, ast.Name):
            raise InputError(f"The parameters cell of {name} assigns to something else than a name (line {statement.lineno}); write only 'name = literal'.")
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            raise InputError(f"Parameter '{target.id}' of {name} is not a literal; write its value out, derive nothing in the parameters cell.") from None
        if not is_flat(value):
            raise InputError(f"Parameter '{target.id}' of {name} is {value!r}; use a bool, int, float or str, or a list of one of these.")
        found[target.id] = value
    if "profile" not in found:
        raise InputError(f"The parameters cell of {name} lacks 'profile'; add: profile = \"smoke\".")
    return found


def is_flat(value: object) -> bool:
    """Whether `value` is a JSON scalar other than null, or a list of scalars of one type."""
    if type(value) is list:
        return all(type(v) in SCALARS for v in value) and len({type(v) for v in value}) <= 1
    return type(value) in SCALARS


def check_profile(profile: str) -> None:
    """InputError with the nearest name if there is no such profile."""
    if profile not in PROFILES:
        raise InputError(f"There is no profile '{profile}'{_nearest(profile, PROFILES)}; the profiles are {', '.join(PROFILES)}.")


def profile_parameters(name: str, profile: str) -> dict:
    """What `config/<profile>.yaml` sets for notebook `name` (nothing for smoke); InputError if file or block is missing."""
    check_profile(profile)
    if profile == "smoke":
        return {}
    path = paths.root() / "config" / f"{profile}.yaml"
    if not path.is_file():
        raise InputError(f"config/{profile}.yaml is missing; restore it from the repository.")
    try:
        blocks = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"config/{profile}.yaml is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(blocks, dict) or name not in blocks:
        raise InputError(f"config/{profile}.yaml has no block '{name}'{_nearest(name, list(blocks))}; add one ('{name}: {{}}' keeps the defaults).")
    block = blocks[name] if blocks[name] is not None else {}
    if not isinstance(block, dict):
        raise InputError(f"Block '{name}' of config/{profile}.yaml is {type(block).__name__}; it must map parameter names to values.")
    return block


def parse_setting(text: str) -> tuple[str, object]:
    """`key=value` of the command line, the value read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip().isidentifier():
        raise InputError(f"--set {text!r} is not of the form key=value; write for example --set steps=100.")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"The value of --set {text!r} is not valid YAML; quote it, for example --set 'name=\"a: b\"'.") from None


def check_values(values: dict, defaults: dict, name: str, where: str) -> dict:
    """`values` in the types of `defaults`; InputError for an unknown name, a wrong type or a value outside JSON.

    An int is taken where the default is a float, and so is YAML's `1e-3`, which YAML 1.1 reads as text.
    """
    checked = {}
    for key, value in values.items():
        if key not in defaults:
            raise InputError(f"{where}: notebook {name} has no parameter '{key}'{_nearest(str(key), list(defaults))}; its parameters are {', '.join(defaults)}.")
        checked[key] = _like(value, defaults[key], f"{where}: parameter '{key}' of {name}")
    return checked


def _like(value: object, default: object, what: str) -> object:
    if type(default) is list:
        if type(value) is not list:
            raise InputError(f"{what} is {_shown(value)}; give a list like {json.dumps(default)}.")
        if default:
            return [_like(v, default[0], what) for v in value]
        if not is_flat(value):
            raise InputError(f"{what} is {_shown(value)}; give a list of plain values of one type.")
        return value
    if type(default) is float:
        if type(value) is str:
            try:
                value = float(value)
            except ValueError:
                pass
        elif type(value) is int:
            value = float(value)
    if type(value) is not type(default):
        raise InputError(f"{what} is {_shown(value)}; give {type(default).__name__}, like {json.dumps(default)}.")
    if type(value) is float and value - value != 0:
        raise InputError(f"{what} is {value}, which JSON cannot hold; give a finite number.")
    return value


def _shown(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


@dataclass(frozen=True)
class Plan:
    """One run, checked: what to execute with which parameters.

    name: notebook; profile: study profile; seed: the seed of a seed stage or None; parameters: every parameter with its value;
    injected: those that differ from the defaults and go into the notebook; source_sha256: hash of the .py file;
    run_id: first 12 hex digits of sha256(name, parameters, source).
    """

    name: str
    profile: str
    seed: int | None
    parameters: dict
    injected: dict
    source_sha256: str
    run_id: str


def plan(name: str, profile: str, seed: int | None = None, settings: dict | None = None) -> Plan:
    """Check everything about a run before it starts; later sources win: defaults, `config/`, `settings` (--set), `seed`."""
    text = source_path(name).read_text(encoding="utf-8")
    defaults = parameters(parse(text, name), name)
    values = check_values(profile_parameters(name, profile), defaults, name, f"config/{profile}.yaml")
    if "profile" in values or "profile" in (settings or {}):
        raise InputError(f"Parameter 'profile' of {name} is given by --profile alone; remove it from config/ and --set.")
    values |= check_values(settings or {}, defaults, name, "--set")
    values["profile"] = profile
    if seed is not None:
        if "seeds" not in defaults:
            raise InputError(f"--seed: notebook {name} has no parameter 'seeds'; run it without --seed.")
        values["seeds"] = [seed]
    final = {key: values.get(key, default) for key, default in defaults.items()}
    injected = {key: value for key, value in final.items() if value != defaults[key] or type(value) is not type(defaults[key])}
    run_id = hashlib.sha256(json.dumps([name, final, text], sort_keys=True).encode()).hexdigest()[:12]
    return Plan(name, profile, seed, final, injected, hashlib.sha256(text.encode()).hexdigest(), run_id)


def claim_cells(name: str) -> dict[str, str]:
    """`{claim key: cell id}` for every `results.claim("key")` of notebook `name`, read from the syntax tree."""
    found = {}
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "claim":
                if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    found[node.args[0].value] = cell.id
    return found
