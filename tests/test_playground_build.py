"""The playground put together: its parts are whole, known, and the same each time."""

import base64
import dataclasses
import gzip
import hashlib
import json
import re
import tarfile

import pytest
from typer.testing import CliRunner

from lora_lab.assets import javascript
from lora_lab.cli.app import app
from lora_lab.web import build
from playground import EMPTY_PAGE

INDEX = """<!doctype html>
<html lang="en">
<head>
<link rel="stylesheet" href="style.css">
</head>
<body>
<h1>A page</h1>
<script type="module" src="main.mjs"></script>
</body>
</html>
"""


IN_THE_RUNTIME = ["protocolbuffers/protobuf", "Eigen", "abseil-cpp", "google/XNNPACK", "emsdk"]


@pytest.fixture
def page(tmp_path):
    """A page with a style and two modules of its own, one of a lesson's, and a package."""
    folder = tmp_path / "page"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "style.css").write_text("h1 { color: teal }")
    (folder / "main.mjs").write_text(
        'import { film } from "./parts/film.mjs";\n'
        'export { Tokenizer } from "../vendor/tokenizers/tokenizers.min.mjs";\n'
        "document.title = film;\n"
    )
    (folder / "parts" / "film.mjs").write_text(
        'import { forgettingFilm } from "../../../widgets/forgetting_film.js";\n'
        "export const film = typeof forgettingFilm;\n"
    )
    return folder


def packed(html, name):
    text = re.search(rf'<script type="application/gzip" id="packed-{name}">(.*?)<', html)[1]
    return gzip.decompress(base64.b64decode(text))


# --- others' JavaScript ---------------------------------------------------------------------------


@pytest.mark.parametrize("package", javascript.packages(), ids=lambda package: package.name)
def test_the_kept_javascript_is_that_of_its_package(package):
    for name, known in (package.files | package.notices).items():
        content = javascript.content_of(package.kept(name))
        assert hashlib.sha256(content).hexdigest() == known, name
    assert (package.folder / "LICENSE").is_file()
    assert package.integrity.startswith("sha512-")
    assert len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64


def test_nothing_else_is_kept():
    packages = javascript.packages()
    known = {each.kept(name) for each in packages for name in (each.files | each.notices)}
    known |= {package.folder / "LICENSE" for package in packages}
    kept = {path for path in javascript.VENDOR.rglob("*") if path.is_file()}
    assert kept - known == {javascript.VENDOR / "packages.toml"}


def npm(place, package, content):
    """A program that stands for npm, and gives a package with this content for every file."""
    made = place / "made" / "package"
    for name in package.files:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    archive = place / "given.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made, "package")
    program = place / "npm"
    program.write_text(f"#!/bin/sh\ncp {archive} ./package.tgz\n")
    program.chmod(0o755)
    return archive


def test_a_package_or_file_with_another_content_is_refused(tmp_path, monkeypatch):
    (tmp_path / "vendor").mkdir()
    monkeypatch.setattr(javascript, "VENDOR", tmp_path / "vendor")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    table = {"a.mjs": hashlib.sha256(b"export {}").hexdigest(), "LICENSE": "0" * 64}
    package = javascript.Package("@some/thing", "1.0.0", "sha512-x", "MIT", table)
    archive = npm(tmp_path, package, b"export {}")
    with pytest.raises(ValueError, match=r"@some/thing 1.0.0 has the integrity sha512-.*write it"):
        javascript.fetch(package)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    known = dataclasses.replace(package, integrity=f"sha512-{digest}")
    with pytest.raises(ValueError, match="LICENSE has the SHA-256"):
        javascript.fetch(known)
    assert not (tmp_path / "vendor" / "thing" / "LICENSE").exists()
    known = dataclasses.replace(known, files={"a.mjs": table["a.mjs"]})
    javascript.fetch(known)
    assert (tmp_path / "vendor" / "thing" / "a.mjs").read_bytes() == b"export {}"


def test_without_npm_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="npm, which fetches the JavaScript, is not"):
        javascript.fetch(javascript.packages()[0])


# --- the single file ------------------------------------------------------------------------------


def test_the_file_holds_the_page_its_modules_and_the_engines_files(page, tmp_path):
    build.build_file(tmp_path / "page.html", page)
    html = (tmp_path / "page.html").read_text()
    assert "<h1>A page</h1>" in html
    assert "<style>\nh1 { color: teal }</style>" in html
    assert 'src="' not in html
    assert 'href="' not in html
    assert "worker-src blob: data:;" in html  # Firefox: a worker's imports are asked for, too
    modules = json.loads(packed(html, "modules"))
    assert modules["web/page/main.mjs"][1] == {
        "./parts/film.mjs": "web/page/parts/film.mjs",
        "../vendor/tokenizers/tokenizers.min.mjs": "web/vendor/tokenizers/tokenizers.min.mjs",
    }
    engine = {f"web/engine/{path.name}" for path in (build.ROOM / "engine").glob("*.mjs")}
    assert engine | {"widgets/forgetting_film.js"} < modules.keys()
    for name, content in build.assets().items():
        assert packed(html, name) == content
    for licence in (build.ROOM / "vendor").glob("*/LICENSE"):
        assert licence.read_text().strip() in html
    assert all(each in html for each in IN_THE_RUNTIME)


def test_the_same_parts_give_the_same_file(tmp_path):
    contents = []
    for name in ("one.html", "other.html"):
        build.assets.cache_clear()
        build._gzipped.cache_clear()
        build.build_file(tmp_path / name, EMPTY_PAGE)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_the_file_is_small(tmp_path):
    build.build_file(tmp_path / "page.html", EMPTY_PAGE)
    html = (tmp_path / "page.html").read_bytes()
    assert len(html) < 8.5e6
    assert len(gzip.compress(html)) < 6.5e6


def test_a_module_that_is_not_there_is_named(page):
    (page / "parts" / "film.mjs").unlink()
    with pytest.raises(FileNotFoundError, match=r"imports web/page/parts/film\.mjs, and there is"):
        build.modules_from("web/page/main.mjs", page=page)


def test_imports_are_found_however_they_are_written():
    found = build.IMPORT.findall(
        'import a from "./a.mjs"; import "./b.mjs"; import("./c.mjs");\n'
        'export * from "../d.mjs"; import {\n  e,\n} from "./e.mjs"; import f from "f";'
    )
    assert found == ['"./a.mjs"', '"./b.mjs"', '"./c.mjs"', '"../d.mjs"', '"./e.mjs"']


# --- the folder for a web host --------------------------------------------------------------------


def test_the_site_holds_the_same_in_files_of_its_own(page, tmp_path):
    site = tmp_path / "site"
    build.build_site(site, page)
    html = (site / "index.html").read_text()
    assert '<link rel="stylesheet" href="web/page/style.css">' in html
    assert (site / "web/page/style.css").read_text() == (page / "style.css").read_text()
    for path, (source, _) in build.modules_from(
        "web/page/main.mjs", build.WORKER, page=page
    ).items():
        assert (site / path).read_text() == source
    for name, content in build.assets().items():
        assert gzip.decompress((site / "assets" / f"{name}.gz").read_bytes()) == content
    licences = (site / "LICENSES.txt").read_text()
    assert "MIT License" in licences
    assert all(each in licences for each in IN_THE_RUNTIME)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        build.build_site(tmp_path, EMPTY_PAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch, tmp_path):
    monkeypatch.setattr(build.build_file, "__defaults__", (EMPTY_PAGE,))
    monkeypatch.setattr(build.build_site, "__defaults__", (EMPTY_PAGE,))
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "cache"))
    addresses = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or True)
    return addresses


def test_the_command_opens_the_page(opened, tmp_path):
    result = CliRunner().invoke(app, ["playground"])
    assert result.exit_code == 0
    assert opened == [(tmp_path / "cache" / "playground.html").as_uri()]
    assert (tmp_path / "cache" / "playground.html").stat().st_size > 5e6
    assert "was opened in your browser" in result.stdout
    assert "If it may not read that file" in result.stdout  # a browser from a snap


def test_where_no_browser_opens_the_command_names_the_file(opened, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    result = CliRunner().invoke(app, ["playground"])
    assert re.search(
        r"No browser could be opened here; open this file.*playground\.html",
        " ".join(result.stdout.split()),
    )


def test_the_command_writes_file_and_site_and_opens_nothing(opened, tmp_path):
    file, site = tmp_path / "p.html", tmp_path / "site"
    result = CliRunner().invoke(app, ["playground", "--file", str(file), "--site", str(site)])
    assert result.exit_code == 0
    assert file.is_file()
    assert (site / "index.html").is_file()
    assert opened == []
    again = CliRunner().invoke(app, ["playground", "--site", str(site)])
    assert again.exit_code == 2
    assert "not an empty folder" in again.stderr
