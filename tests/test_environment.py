"""One environment, written once: pyproject's ranges, the lock, the Makefile's torch, environment.yml and what is installed agree."""

import importlib.util
import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gencausal import paths

ROOT = paths.root()


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "requirements" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pinned(generate):
    """`{name: [Requirement]}` of the lock; a name may have one pin a Python version."""
    found = {}
    for pin in generate.pins((ROOT / "requirements" / "lock.txt").read_text()):
        requirement = Requirement(pin)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]]


def version(pin: Requirement) -> Version:
    return Version(str(pin.specifier).removeprefix("=="))


def test_environment_yml_is_generated_from_the_lock(generate):
    assert (ROOT / "environment.yml").read_text() == generate.environment((ROOT / "requirements" / "lock.txt").read_text()), "run: python requirements/generate.py --environment-only"


def test_environment_yml_holds_every_dependency():
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = [entry for entry in document["dependencies"] if isinstance(entry, dict)][0]["pip"]
    assert packages[-1] == "-e ." and document["dependencies"][0] == "python=3.11.*"
    names = {canonicalize_name(Requirement(text).name) for text in packages[:-1]}
    assert {canonicalize_name(requirement.name) for requirement in wanted()} <= names
    assert all("==" in text and "--hash" not in text for text in packages[:-1]), "conda hands pip one file: pins without hashes"


def test_every_pin_satisfies_its_range(pinned):
    for requirement in wanted():
        if requirement.name == "torch":
            continue
        pins = pinned.get(canonicalize_name(requirement.name), [])
        assert pins, f"{requirement.name} is not in the lock; run: make lock"
        for pin in pins:
            assert requirement.specifier.contains(version(pin)), f"{pin} is outside {requirement}"


def test_lock_has_hashes_and_no_torch(pinned):
    text = (ROOT / "requirements" / "lock.txt").read_text()
    assert "torch" not in pinned and not any(name.startswith(("nvidia-", "triton", "cuda")) for name in pinned)
    blocks = re.split(r"\n(?=\S)", text.split("\n", 1)[1])
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)
    assert "index-url" not in text and "find-links" not in text and "file:" not in text and "://" not in text


def test_torch_of_the_makefile_is_in_range(generate):
    pin = Requirement(generate.torch_pin())
    (asked,) = [requirement for requirement in wanted() if requirement.name == "torch"]
    assert asked.specifier.contains(version(pin))
    assert Version(metadata.version("torch")).public == str(version(pin)), "the installed torch is another; run: make test"


def test_installed_versions_equal_the_lock(pinned):
    other = {}
    for name, pins in pinned.items():
        here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
        for pin in here:
            try:
                installed = metadata.version(name)
            except metadata.PackageNotFoundError:
                installed = "missing"
            if installed == "missing" or Version(installed) != version(pin):
                other[name] = f"{installed}, lock {version(pin)}"
    assert other == {}, "run: make test (it installs the lock)"
