"""Files are found in a fixed order, verified always, and downloaded whole or not at all."""

import dataclasses
import gzip
import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gencausal.checks import InputError
from gencausal.data import registry
from gencausal.data.registry import DataError, Entry

CONTENT = b"a,b\n1,2\n" * 100
FILE = "table.csv"


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GENCAUSAL_DATA", raising=False)


@pytest.fixture
def register(monkeypatch):
    """A function that makes one made-up data set, `demo`, the whole registry."""

    def register(**ways) -> Entry:
        entry = Entry("demo", "A demo", "here", "MIT; ours", "nobody", {FILE: (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())}, **ways)
        monkeypatch.setattr(registry, "entries", lambda: {"demo": entry})
        return entry

    return register


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    (tmp_path / "mirror" / "demo").mkdir(parents=True)
    monkeypatch.setenv("GENCAUSAL_DATA", str(tmp_path / "mirror"))
    return tmp_path / "mirror" / "demo" / FILE


@pytest.fixture
def cached(tmp_path):
    (tmp_path / "cache" / "demo").mkdir(parents=True)
    return tmp_path / "cache" / "demo" / FILE


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `demo_package` without metadata that ships the file."""
    folder = tmp_path / "site" / "demo_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder / FILE


@pytest.fixture
def web():
    """A loopback server whose answer the test sets; counts the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            self.send_response(server.status)
            self.send_header("Content-Length", str(server.length or len(server.body)))
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.status, server.body, server.length = [], 200, CONTENT, None
    server.url = f"http://127.0.0.1:{server.server_port}/demo"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


SHIPPED = {"package": "demo_package", "version": "1.0", "folder": "demo_package"}


def leftovers(tmp_path):
    return [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_order_is_cache_mirror_package_web(register, cached, mirror, package, web):
    register(mirror="demo", url=web.url, **SHIPPED)
    for path in (cached, mirror, package):
        path.write_bytes(CONTENT)
    for path in (cached, mirror, package):
        assert registry.fetch("demo", FILE) == path
        path.unlink()
    assert not web.requests
    assert registry.fetch("demo", FILE) == cached and cached.read_bytes() == CONTENT
    assert web.requests == [f"/demo/{FILE}"]
    registry.fetch("demo", FILE)
    assert len(web.requests) == 1


def test_download_says_nothing_off_a_terminal(register, web, capfd, tmp_path):
    register(url=web.url)
    registry.fetch("demo", FILE)
    assert capfd.readouterr() == ("", "")
    assert leftovers(tmp_path) == [FILE]


def test_download_shows_a_bar_on_a_terminal(register, web, capfd, monkeypatch):
    register(url=web.url)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    registry.fetch("demo", FILE)
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": CONTENT[:-1]}, r"is truncated: 800 bytes were expected and 799 found; try again"),
        ({"body": CONTENT + b"x"}, r"is too long: 800 bytes were expected and 801 found; try again"),
        ({"body": CONTENT[:-1] + b"x"}, r"is corrupted or of another version: SHA-256 \w{12}\.\.\. was expected and \w{12}\.\.\. found; try again"),
        ({"body": b""}, r"is truncated: 800 bytes were expected and 0 found"),
        ({"length": 10**6}, r"\((ChunkedEncodingError|ConnectionError)\); try again, or set GENCAUSAL_DATA"),
        ({"status": 404}, r"\(status 404\); try again, or set GENCAUSAL_DATA"),
    ],
)
def test_failed_download_is_one_sentence_and_leaves_no_half_file(register, web, tmp_path, change, message):
    register(url=web.url, mirror="demo")
    for name, value in change.items():
        setattr(web, name, value)
    with pytest.raises(DataError, match=rf"^demo/{FILE} (could not be downloaded )?from {web.url}/{FILE} {message}") as caught:
        registry.fetch("demo", FILE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 450
    assert leftovers(tmp_path) == []
    web.status, web.body, web.length = 200, CONTENT, None
    assert registry.fetch("demo", FILE).read_bytes() == CONTENT


def test_unreachable_address(register, tmp_path):
    register(url="http://127.0.0.1:9/demo", mirror="demo")
    with pytest.raises(DataError, match=r"could not be downloaded from .* \(ConnectionError\); try again, or set GENCAUSAL_DATA to a mirror folder that holds demo/table\.csv\.$"):
        registry.fetch("demo", FILE)
    assert leftovers(tmp_path) == []


def test_interrupted_download_leaves_no_half_file(register, web, tmp_path, monkeypatch):
    def interrupted(**kwargs):
        def downloader(url, output, _):
            with open(output, "wb") as stream:
                stream.write(CONTENT[:100])
            raise KeyboardInterrupt

        return downloader

    register(url=web.url)
    monkeypatch.setattr("pooch.HTTPDownloader", interrupted)
    with pytest.raises(KeyboardInterrupt):
        registry.fetch("demo", FILE)
    assert leftovers(tmp_path) == []


def test_full_disk_is_one_sentence(register, web, tmp_path, monkeypatch):
    def full(**kwargs):
        def downloader(url, output, _):
            raise OSError(28, "No space left on device")

        return downloader

    register(url=web.url)
    monkeypatch.setattr("pooch.HTTPDownloader", full)
    with pytest.raises(DataError, match=r"could not be written to the cache \(No space left on device\); free some space or set GENCAUSAL_CACHE to another folder\.$"):
        registry.fetch("demo", FILE)
    assert leftovers(tmp_path) == []


def test_cache_that_is_a_file_is_one_sentence(register, web, tmp_path):
    register(url=web.url)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match="could not be written to the cache .*GENCAUSAL_CACHE to another folder"):
        registry.fetch("demo", FILE)


BAD = [(CONTENT[:-5], "is truncated"), (CONTENT + b"\n", "is too long"), (CONTENT[::-1], "is corrupted or of another version"), (b"", "is truncated")]


@pytest.mark.parametrize(("content", "state"), BAD)
def test_wrong_cached_file_is_refused_even_where_the_mirror_is_right(register, cached, mirror, content, state):
    register(mirror="demo")
    mirror.write_bytes(CONTENT)
    cached.write_bytes(content)
    with pytest.raises(DataError, match=rf"^demo/{FILE} in the cache {state}.*run `gencausal data get demo` to replace it\.$"):
        registry.fetch("demo", FILE)
    assert registry.get_data(["demo"]) == 0
    assert registry.fetch("demo", FILE) == cached and cached.read_bytes() == CONTENT


@pytest.mark.parametrize(("content", "state"), BAD)
def test_wrong_mirror_file_is_refused_even_where_a_download_is_right(register, mirror, web, content, state):
    register(mirror="demo", url=web.url)
    mirror.write_bytes(content)
    with pytest.raises(DataError, match=rf"^demo/{FILE} in the mirror {state}.*restore demo/{FILE} .* unset GENCAUSAL_DATA\.$"):
        registry.fetch("demo", FILE)
    assert not web.requests


PACKED = {"mirror": "demo", "mirrored": {FILE: "copy.csv.gz"}}


def test_a_gzip_copy_of_the_mirror_is_verified_by_its_content(register, mirror, cached):
    """The copy is given as it is; `data get` unpacks it into the cache; another content and a cut copy are refused."""
    register(**PACKED)
    copy = mirror.with_name("copy.csv.gz")
    copy.write_bytes(gzip.compress(CONTENT))
    assert registry.fetch("demo", FILE) == copy and registry.check_data() == 0
    assert registry.get_data(["demo"]) == 0 and cached.read_bytes() == CONTENT
    cached.unlink()
    for wrong, state in ((gzip.compress(CONTENT + b"x"), "corrupted or of another version"), (gzip.compress(CONTENT)[:-9], "damaged"), (CONTENT, "damaged")):
        copy.write_bytes(wrong)
        os.utime(copy, ns=(0, copy.stat().st_mtime_ns + 10**9))
        with pytest.raises(DataError, match=rf"^demo/{FILE} in the mirror is {state}.*restore demo/copy\.csv\.gz in the folder"):
            registry.fetch("demo", FILE)


def test_a_file_of_another_name_in_the_mirror(register, mirror):
    register(mirror="demo", mirrored={FILE: "other.csv"})
    mirror.with_name("other.csv").write_bytes(CONTENT)
    mirror.write_bytes(b"not this one")
    assert registry.fetch("demo", FILE) == mirror.with_name("other.csv")


def test_file_changed_after_it_was_verified_is_seen(register, mirror):
    """Hashes are kept by size and time of change: the same size with another content and time is hashed again."""
    register(mirror="demo")
    mirror.write_bytes(CONTENT)
    registry.fetch("demo", FILE)
    mirror.write_bytes(CONTENT[::-1])
    os.utime(mirror, ns=(0, mirror.stat().st_mtime_ns + 10**9))
    with pytest.raises(DataError, match="corrupted"):
        registry.fetch("demo", FILE)


@pytest.mark.parametrize(("content", "state"), BAD)
def test_package_of_another_version(register, package, content, state, monkeypatch):
    register(**SHIPPED)
    package.write_bytes(content)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.9")
    with pytest.raises(DataError, match=rf"^demo/{FILE} in the package {state}.*demo_package 0\.9 is installed: install demo_package==1\.0 anew\.$"):
        registry.fetch("demo", FILE)


def test_package_without_the_file(register, package, monkeypatch):
    register(**SHIPPED)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.9")
    with pytest.raises(DataError, match=r"was not found: demo_package 0\.9 is installed and 1\.0 ships the file; install demo_package==1\.0\.$"):
        registry.fetch("demo", FILE)


def test_package_that_is_not_installed(register):
    register(package="no_such_package", version="1.0", folder="no_such_package")
    with pytest.raises(DataError, match=r"was not found: no_such_package is not installed and 1\.0 ships the file; install no_such_package==1\.0\.$"):
        registry.fetch("demo", FILE)


def test_package_is_found_without_importing_it(register, package):
    register(**SHIPPED)
    package.write_bytes(CONTENT)
    assert registry.fetch("demo", FILE) == package  # its __init__ raises when run


def test_mirror_that_is_not_a_folder(register, monkeypatch, tmp_path):
    register(mirror="demo")
    monkeypatch.setenv("GENCAUSAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="GENCAUSAL_DATA names .*nowhere.*not a folder"):
        registry.fetch("demo", FILE)


def test_used_names_what_was_fetched_and_nothing_else(register, mirror, monkeypatch):
    monkeypatch.setattr(registry, "_used", {})
    entry = register(mirror="demo")
    mirror.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError):
        registry.fetch("demo", FILE)
    assert registry.used() == {}
    mirror.write_bytes(CONTENT)
    registry.fetch("demo", FILE)
    assert registry.used() == {f"demo/{FILE}": entry.files[FILE][1]}


def test_names_are_checked(register):
    register()
    with pytest.raises(ValueError, match="dataset must be one of 'demo'"):
        registry.fetch("dmo", FILE)
    with pytest.raises(ValueError, match="file of demo must be one of 'table.csv', not '../x'"):
        registry.fetch("demo", "../x")


def test_list_check_and_get(register, mirror, cached, capsys):
    register(mirror="demo")
    assert registry.list_data() == 0 and re.search(r"demo +1 +0\.0 +1 absent +MIT +A demo", capsys.readouterr().out)
    assert registry.check_data() == 0 and re.search(r"demo +1 +0 +0 +1", capsys.readouterr().out)  # absent is not wrong
    assert registry.get_data(["demo"]) == 1 and "was not found; set GENCAUSAL_DATA" in capsys.readouterr().err
    mirror.write_bytes(CONTENT)
    assert registry.list_data() == 0 and "1 mirror" in capsys.readouterr().out
    assert registry.get_data(["demo"]) == 0 and capsys.readouterr().out == "demo: 1 cache, verified\n"
    assert cached.read_bytes() == CONTENT
    assert registry.check_data() == 0 and re.search(r"demo +1 +1 +0 +0", capsys.readouterr().out)
    cached.write_bytes(CONTENT[::-1])
    assert registry.check_data() == 1
    out = capsys.readouterr().out
    assert re.search(r"demo +1 +0 +1 +0", out) and "in the cache is corrupted" in out
    assert registry.get_data(["demmo"]) == 2 and "No data set is called 'demmo'; the names are demo." in capsys.readouterr().err


def test_get_everything_skips_what_cannot_be_had(register, monkeypatch, capsys):
    register(mirror="demo")
    assert registry.get_data() == 0
    assert capsys.readouterr().out.startswith("demo: skipped; demo/table.csv has no public address")


def test_check_reports_a_package_that_lacks_its_file(register, package, capsys):
    register(**SHIPPED)
    assert registry.check_data() == 1
    assert "install demo_package==1.0" in capsys.readouterr().out


def test_the_real_registry_is_complete():
    """Every file has a size and a SHA-256; every address names a commit; the embedded files are right on this machine."""
    entries = registry.entries()
    assert {name: len(entry.files) for name, entry in entries.items()} == {
        "acic2016": 11, "acic2016_11_40": 30, "acic2016_truth": 9, "ihdp": 30, "acic2018": 1, "acic2018_mask": 1, "acic2018_outcomes": 2, "lalonde_realcause": 10, "synthetic_1d": 0, "mnist_5k": 1, "mnist": 2, "morphomnist": 2,
        "kang_pbmc_scgen": 1, "kang_pbmc_muscat": 1, "glioblastoma_panobinostat_lemur": 1, "norman_mcfaline_perturbench": 1, "sachs": 3, "ecoli70": 1, "regulatory_graphs": 2}
    for entry in entries.values():
        assert all((entry.title, entry.origin, entry.licence, entry.citation))
        assert not entry.url or re.search(r"^https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", entry.url)
        assert not entry.files or entry.url or entry.mirror or (entry.package and entry.version)
        assert set(entry.mirrored) <= set(entry.files)
        for size, sha256 in entry.files.values():
            assert size > 0 and re.fullmatch("[0-9a-f]{64}", sha256)
    assert len({sha256 for entry in entries.values() for _, sha256 in entry.files.values()}) == 109
    assert all(registry.fetch(name, file).is_file() for name in ("acic2016", "mnist_5k") for file in entries[name].files)


def test_package_version_is_the_one_that_the_project_installs():
    project = (registry.registry_file().parents[1] / "pyproject.toml").read_text()
    entry = registry.entries()["acic2016"]
    assert f'"{entry.package}=={entry.version}"' in project


def test_data_readme_agrees_with_the_registry():
    text = registry.registry_file().with_name("README.md").read_text(encoding="utf-8")
    assert text == registry.readme(), "run: python -m gencausal.data.registry"
    for entry in registry.entries().values():
        assert f"## {entry.name}\n" in text and entry.citation in text and entry.licence in text
        assert all(sha256 in text for _, sha256 in entry.files.values())


def test_digest_follows_every_file(monkeypatch):
    before = registry.digest("ihdp")
    entry = registry.entries()["ihdp"]
    changed = {**entry.files, "ihdp_npci_30.csv": (1, "0" * 64)}
    monkeypatch.setattr(registry, "entries", lambda: {"ihdp": dataclasses.replace(entry, files=changed)})
    assert re.fullmatch("[0-9a-f]{64}", before) and registry.digest("ihdp") != before


def test_what_cannot_be_had_ends_the_list(capsys):
    """One line with the reason; any other error is not swallowed."""
    def load(unit):
        if unit == 2:
            raise DataError("file 2 is absent.")
        if unit == 9:
            raise InputError("unit is 9.")
        return unit

    assert registry.loaded(load, [0, 1, 2, 3]) == [0, 1] and "From unit 2 on, data are left out: file 2 is absent." in capsys.readouterr().out
    with pytest.raises(InputError, match="unit is 9"):
        registry.loaded(load, [0, 9])
