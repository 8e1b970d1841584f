"""Every file that enters the study: where it comes from, how large it is and what its SHA-256 must be.

`data/registry.toml` lists the data sets. `fetch` looks in this order: the cache (`GENCAUSAL_CACHE`, else the user's cache
folder), a local mirror (`GENCAUSAL_DATA`), the files that an installed package ships, the web. Whatever is found is
verified before it is read; a file that is not the registered one raises `DataError`, it is never passed over.
"""

import gzip
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import platformdirs

from gencausal import paths
from gencausal.checks import InputError, choice

_verified: dict[Path, tuple[int, int, str]] = {}  # path -> (size, mtime in ns, sha256) of files hashed in this process
_used: dict[str, str] = {}  # "data set/file" -> sha256 of what `fetch` gave in this process


class DataError(InputError):
    """A data file that is absent, truncated, corrupted or of another version; the message is one sentence with the fix."""


@dataclass(frozen=True)
class Entry:
    """One data set of `data/registry.toml`.

    files: {file name: (bytes, sha256)}. mirror: folder inside the local mirror. url: address of the folder that holds the
    files, at a fixed commit. package, version, folder: the distribution that ships the files, and where. Each way may be
    empty; a data set without files is generated. mirrored: {file name: its name in the mirror} where that differs; such a
    name that ends in .gz is a gzip copy, whose content is verified and which `fetch` gives as it is (pandas reads it).
    """

    name: str
    title: str
    origin: str
    licence: str
    citation: str
    files: dict[str, tuple[int, str]]
    mirror: str = ""
    url: str = ""
    package: str = ""
    version: str = ""
    folder: str = ""
    mirrored: dict[str, str] = field(default_factory=dict)


def registry_file() -> Path:
    """`data/registry.toml` of the study."""
    return paths.root() / "data" / "registry.toml"


@cache
def entries() -> dict[str, Entry]:
    """All registered data sets by name."""
    table = tomllib.loads(registry_file().read_text(encoding="utf-8"))
    made = {}
    for name, block in table.items():
        files = block.pop("files", {})
        mirrored = {file: f["mirrored"] for file, f in files.items() if "mirrored" in f}
        made[name] = Entry(name=name, files={file: (f["size"], f["sha256"]) for file, f in files.items()}, mirrored=mirrored, **block)
    return made


def digest(dataset: str) -> str:
    """One SHA-256 for a whole data set, over its lines `file sha256`; it changes when any registered file does."""
    lines = "".join(f"{file} {sha256}\n" for file, (_, sha256) in sorted(entries()[dataset].files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def used() -> dict[str, str]:
    """{"data set/file": sha256} of every file that `fetch` gave in this process, for the provenance of a run."""
    return dict(sorted(_used.items()))


def cache_folder() -> Path:
    """Where downloads are kept: `GENCAUSAL_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("GENCAUSAL_CACHE") or platformdirs.user_cache_dir("gencausal"))


def fetch(dataset: str, file: str) -> Path:
    """The verified path of one registered file, downloaded into the cache where no other place has it.

    Raises `DataError` where the file is absent everywhere or the first place that has it holds another content.
    """
    entry = entries()[choice(dataset, "dataset", list(entries()))]
    choice(file, f"file of {dataset}", list(entry.files))
    place, path = _find(entry, file)
    if path is None:
        path = _download(entry, file)
    elif fault := _fault(path, *entry.files[file], _packed(path, file)):
        raise DataError(f"{dataset}/{file} in the {place} {fault}; {_remedy(entry, file, place)}.")
    _used[f"{dataset}/{file}"] = entry.files[file][1]
    return path


def _find(entry: Entry, file: str) -> tuple[str, Path | None]:
    """The first place that has the file, unverified: ("cache" | "mirror" | "package", path), or ("", None)."""
    places: list[tuple[str, Path]] = [("cache", cache_folder() / entry.name / file)]
    if entry.mirror and (mirror := _mirror()):
        places.append(("mirror", mirror / entry.mirror / entry.mirrored.get(file, file)))
    if entry.package and (package := _package(entry.package)):
        places.append(("package", package.parent / entry.folder / file))
    return next(((place, path) for place, path in places if path.is_file()), ("", None))


def _mirror() -> Path | None:
    """The folder that `GENCAUSAL_DATA` names, if it is set."""
    named = os.environ.get("GENCAUSAL_DATA")
    if not named:
        return None
    if not Path(named).is_dir():
        raise DataError(f"GENCAUSAL_DATA names {named!r}, which is not a folder; set it to the data mirror or unset it.")
    return Path(named)


def _package(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _packed(path: Path, file: str) -> bool:
    """Whether `path` is a gzip copy of the registered `file`."""
    return path.suffix == ".gz" and not file.endswith(".gz")


def _fault(path: Path, size: int, sha256: str, packed: bool = False) -> str:
    """What is wrong with the file at `path` (with what it holds, if packed), "" if it is the registered one; a file is hashed once in a process."""
    stat = path.stat()
    if stat.st_size != size and not packed:
        state = "truncated" if stat.st_size < size else "too long"
        return f"is {state}: {size:,} bytes were expected and {stat.st_size:,} found"
    known = _verified.get(path)
    if known is None or known[:2] != (stat.st_size, stat.st_mtime_ns):
        try:
            with gzip.open(path) if packed else open(path, "rb") as stream:
                known = (stat.st_size, stat.st_mtime_ns, hashlib.file_digest(stream, "sha256").hexdigest())
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return "is damaged: its gzip content cannot be read to the end"
        _verified[path] = known
    if known[2] != sha256:
        return f"is corrupted or of another version: SHA-256 {sha256[:12]}... was expected and {known[2][:12]}... found"
    return ""


def _remedy(entry: Entry, file: str, place: str) -> str:
    """How to get the right file, for the end of a message."""
    if place == "cache":
        return f"run `gencausal data get {entry.name}` to replace it"
    if place == "mirror":
        return f"restore {entry.mirror}/{entry.mirrored.get(file, file)} in the folder that GENCAUSAL_DATA names, or unset GENCAUSAL_DATA"
    return f"{_installed(entry)}: install {entry.package}=={entry.version} anew"


def _installed(entry: Entry) -> str:
    """Which version of the package is installed, for a message."""
    try:
        return f"{entry.package} {metadata.version(entry.package)} is installed"
    except metadata.PackageNotFoundError:
        return f"{entry.package} is not installed"


def _absent(entry: Entry, file: str) -> str:
    """The sentence for a file that no place has and that cannot be downloaded."""
    if entry.package:
        return f"{entry.name}/{file} was not found: {_installed(entry)} and {entry.version} ships the file; install {entry.package}=={entry.version}."
    return f"{entry.name}/{file} has no public address and was not found; set GENCAUSAL_DATA to a mirror folder that holds {entry.mirror}/{entry.mirrored.get(file, file)}."


def _download(entry: Entry, file: str) -> Path:
    """Download one file into the cache, whole or not at all; the bar shows on a terminal only."""
    if not entry.url:
        raise DataError(_absent(entry, file))
    import pooch  # here and not above: its progress bar warns in a notebook as soon as it is imported
    import requests

    url = f"{entry.url}/{file}"
    hint = "try again" + f", or set GENCAUSAL_DATA to a mirror folder that holds {entry.mirror}/{entry.mirrored.get(file, file)}" * bool(entry.mirror)

    def write(temporary: str) -> None:
        try:
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)(url, temporary, None)
        except requests.RequestException as error:
            reason = type(error).__name__ if error.response is None else f"status {error.response.status_code}"
            raise DataError(f"{entry.name}/{file} could not be downloaded from {url} ({reason}); {hint}.") from error

    return _into_cache(entry, file, write, f"{entry.name}/{file} from {url}", hint)


def _into_cache(entry: Entry, file: str, write: Callable[[str], None], what: str, hint: str) -> Path:
    """Let `write` fill a temporary file, verify it and move it to its place in the cache; on any failure nothing is left."""
    target = cache_folder() / entry.name / file
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{file}.")
        os.close(handle)
        write(temporary)
        fault = _fault(Path(temporary), *entry.files[file])
        if fault:
            raise DataError(f"{what} {fault}; {hint}.")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        what = f"{entry.name}/{file} could not be written to the cache ({reason})"
        raise DataError(f"{what}; free some space or set GENCAUSAL_CACHE to another folder.") from error
    finally:
        if temporary:
            _verified.pop(Path(temporary), None)
            Path(temporary).unlink(missing_ok=True)
    return target


def _state(entry: Entry, file: str) -> tuple[str, str]:
    """(where the file is, what is wrong with it); "absent" where only a download or nothing has it."""
    place, path = _find(entry, file)
    if path is None:
        return "absent", "" if entry.url or not entry.package else _absent(entry, file)
    fault = _fault(path, *entry.files[file], _packed(path, file))
    return place, f"{entry.name}/{file} in the {place} {fault}; {_remedy(entry, file, place)}." if fault else ""


def _columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as aligned columns, the first row the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _count(places: Iterable[str]) -> str:
    """`3 cache, 27 absent` from the places of a data set's files."""
    places = list(places)
    return ", ".join(f"{places.count(place)} {place}" for place in ("cache", "mirror", "package", "absent") if place in places)


def list_data() -> int:
    """Print every data set: files, size, where they are now, licence, title. Returns the exit code 0."""
    rows = [("data set", "files", "MiB", "found in", "licence", "title")]
    for entry in entries().values():
        size = sum(size for size, _ in entry.files.values()) / 2**20
        where = _count(_find(entry, file)[0] or "absent" for file in entry.files) or "generated"
        rows.append((entry.name, str(len(entry.files)), f"{size:.1f}", where, entry.licence.split(";")[0], entry.title))
    print(_columns(rows))
    return 0


def check_data() -> int:
    """Verify every file that is present and print the state. Returns 1 where a file is wrong or a package lacks its own, else 0."""
    rows, faults = [("data set", "files", "verified", "wrong", "absent")], []
    for entry in entries().values():
        states = [_state(entry, file) for file in entry.files]
        wrong = [fault for _, fault in states if fault]
        absent = sum(place == "absent" and not fault for place, fault in states)
        rows.append((entry.name, str(len(states)), str(len(states) - len(wrong) - absent), str(len(wrong)), str(absent)))
        faults += wrong
    print(_columns(rows))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def get_data(names: Iterable[str] = ()) -> int:
    """Put the named data sets into the cache (all that can be had where none is named) and print what was done.

    A file in an installed package stays there; a wrong file in the cache is replaced. Returns 1 where a file could not be
    had and 2 for an unknown name, else 0.
    """
    names = list(names)
    unknown = [name for name in names if name not in entries()]
    if unknown:
        print(f"No data set is called {unknown[0]!r}; the names are {', '.join(entries())}.", file=sys.stderr)
        return 2
    code = 0
    for name in names or entries():
        entry = entries()[name]
        if not entry.files:
            print(f"{name}: generated, nothing to get")
        elif not names and not (entry.url or entry.package or os.environ.get("GENCAUSAL_DATA")):
            print(f"{name}: skipped; {_absent(entry, next(iter(entry.files)))}")
        else:
            try:
                print(f"{name}: {_count(_get(entry, file) for file in entry.files)}, verified")
            except DataError as error:
                print(error, file=sys.stderr)
                code = 1
    return code


def _get(entry: Entry, file: str) -> str:
    """Bring one file into the cache unless a package has it; returns the place it is in."""
    cached = cache_folder() / entry.name / file
    if cached.is_file() and _fault(cached, *entry.files[file]):
        cached.unlink()
    path = fetch(entry.name, file)
    place = _find(entry, file)[0]
    if place != "mirror":
        return place
    _into_cache(entry, file, lambda temporary: _copy(path, temporary, _packed(path, file)), f"{entry.name}/{file} from the mirror", "try again")
    return "cache"


def _copy(source: Path, target: str, packed: bool) -> None:
    """Copy `source`, or what it holds if packed, to `target`."""
    with gzip.open(source) if packed else open(source, "rb") as read, open(target, "wb") as written:
        shutil.copyfileobj(read, written)


def readme() -> str:
    """The text of `data/README.md`: origin, licence, citation and checksums of every data set."""
    parts = [
        "# Data\n\nWritten from `registry.toml` by `python -m gencausal.data.registry`. `gencausal data list` shows what is here, `gencausal data check`\n"
        "verifies it, `gencausal data get NAME` puts a data set into the cache. No data file is kept in this repository. Files are looked for in the cache\n"
        "(`GENCAUSAL_CACHE`), in a local mirror (`GENCAUSAL_DATA`), in installed packages, then on the web, and verified by size and SHA-256.\n"
    ]
    for entry in entries().values():
        ways = [f"mirror folder `{entry.mirror}/`"] * bool(entry.mirror)
        ways += [f"package {entry.package} {entry.version}, `{entry.folder}/`"] * bool(entry.package)
        ways += [f"<{entry.url}/>"] * bool(entry.url)
        lines = [f"## {entry.name}", "", entry.title + ".", "", f"- Origin: {entry.origin}", f"- Licence: {entry.licence}"]
        lines += [f"- Cite: {entry.citation}", f"- Read from: {'; '.join(ways) or 'generated by the code'}"]
        if entry.files:
            lines += ["", "| file | bytes | sha256 |", "| --- | ---: | --- |"]
            lines += [f"| {file} | {size} | `{sha256}` |" for file, (size, sha256) in entry.files.items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    paths.write_whole(registry_file().with_name("README.md"), readme())


def loaded(load: Callable, units: Iterable) -> list:
    """`load(unit)` for each of `units` whose files can be had here; the first that cannot ends the list, and one line says why."""
    made = []
    for unit in units:
        try:
            made.append(load(unit))
        except DataError as error:
            print(f"From unit {unit} on, data are left out: {error}")
            break
    return made
