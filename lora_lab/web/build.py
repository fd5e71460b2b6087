"""The playground's page put together: one file that works from disk, or a folder for a web host."""

import base64
import functools
import gzip
import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

from lora_lab.assets.javascript import NOTICES, VENDOR, content_of
from lora_lab.models.bases import load_base
from lora_lab.models.built_in import base_folder
from lora_lab.places import make_new_folder, write_atomically
from lora_lab.web.data import playground_data

ROOM = Path(__file__).parent
PACKAGE = ROOM.parent  # modules are named by their paths in here: web/engine/worker.mjs
PAGE = ROOM / "page"
WORKER = "web/engine/worker.mjs"
RUNTIME = VENDOR / "onnxruntime-web" / "ort-wasm-simd-threaded.wasm.xz"
IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*("\.{1,2}/[^"\n]+")""")
ENTRY = re.compile(r"""<script\s+type="?module"?\s+src="?([^">\s]+)"?\s*>\s*</script>""")
STYLE = re.compile(r"""<link\s+rel="?stylesheet"?\s+href="?([^">\s]+)"?\s*/?>""")
HEAD = "<head>"
POLICY = (  # what the page may do: it can't send anything anywhere
    "default-src 'none'; script-src {scripts} 'unsafe-inline' 'wasm-unsafe-eval'; "
    "style-src {styles} 'unsafe-inline'; img-src data: blob:; worker-src {workers}; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)
FROM_DISK = {  # in Firefox, worker-src also decides what a worker may import
    "scripts": "data: blob:",
    "styles": "",
    "workers": "blob: data:",
    "connect": "'none'",
}
FROM_HOST = {"scripts": "'self'", "styles": "'self'", "workers": "'self'", "connect": "'self'"}


# --- the parts ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def assets() -> Mapping[str, bytes]:
    """The engine's files by name: the runtime, pocket, its graphs, and the data about its tasks."""
    model = base_folder("pocket")
    kept = ("model.safetensors", "tokenizer.json", "tokenizer_config.json")
    graphs = [model.with_name("gradients.onnx"), *sorted((ROOM / "graphs").glob("*.onnx"))]
    return {
        "ort-wasm-simd-threaded.wasm": content_of(RUNTIME),
        "playground.json": playground_data(load_base("pocket", device="cpu")).encode(),
        **{name: (model / name).read_bytes() for name in kept},
        **{graph.name: graph.read_bytes() for graph in graphs},
    }


def modules_from(*paths: str, page: Path = PAGE) -> dict[str, tuple[str, dict[str, str]]]:
    """JavaScript modules and all that they import, by path: (source, the path of each import).

    Args:
        paths: the first modules, such as `web/engine/worker.mjs`.
        page: the folder that stands for `web/page`.

    Raises:
        FileNotFoundError: if a module imports a file that is not there.
    """
    found: dict[str, tuple[str, dict[str, str]]] = {}
    left = list(paths)
    while left:
        path = left.pop()
        if path in found:
            continue
        file = _file_of(path, page)
        if not file.is_file():
            raise FileNotFoundError(f"a module imports {path}, and there is no {file}")
        source = file.read_text(encoding="utf-8")
        own = path.startswith("web/vendor/")  # others' modules stand in one file each
        names = [] if own else [json.loads(name) for name in IMPORT.findall(source)]
        imports = {name: posixpath.normpath(f"{path}/../{name}") for name in names}
        found[path] = source, imports
        left += imports.values()
    return found


def _file_of(path: str, page: Path) -> Path:
    inside = path.removeprefix("web/page/")
    return page / inside if inside != path else PACKAGE / path


def licences() -> str:
    """The licences of others' software in the page, in full, with the notices that they require."""
    files = sorted([*VENDOR.glob("*/LICENSE"), *VENDOR.glob(f"*/{NOTICES}*")])
    texts = {file: content_of(file).decode() for file in files}
    return "\n\n".join(f"=== {file.parent.name} ===\n\n{text}" for file, text in texts.items())


# --- the two pages --------------------------------------------------------------------------------


def build_file(path: Path, page: Path = PAGE) -> None:
    """Write the page as one HTML file that works from disk, without a server or a network.

    Args:
        path: the file.
        page: the folder with index.html, its style and its modules.
    """
    html, entry = _html_and_entry(page)
    modules = modules_from(*filter(None, [entry, WORKER]), page=page)
    packed = {"modules": json.dumps(modules).encode(), **assets()}
    parts = [_inline("text/plain", "licences", licences())]
    for name, content in packed.items():
        text = base64.b64encode(_gzipped(content)).decode()
        parts.append(_inline("application/gzip", f"packed-{name}", text))
    parts.append(f"<script>\n{_start('one_file.js', entry)}</script>")
    html = STYLE.sub(lambda link: f"<style>\n{_text(page / link[1])}</style>", html)
    html = html.replace(HEAD, HEAD + _policy(FROM_DISK), 1)
    with write_atomically(path) as new:
        new.write_text(_with_parts(html, "\n".join(parts)), encoding="utf-8")


def build_site(folder: Path, page: Path = PAGE) -> None:
    """Write the page as a folder for a web host: index.html, modules and assets beside it.

    Args:
        folder: a new or an empty folder.
        page: as in `build_file`.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    html, entry = _html_and_entry(page)
    modules = modules_from(*filter(None, [entry, WORKER]), page=page)
    files = {f"web/page/{name}": (page / name).read_bytes() for name in STYLE.findall(html)}
    files |= {path: source.encode() for path, (source, _) in modules.items()}
    files |= {f"assets/{name}.gz": _gzipped(content) for name, content in assets().items()}
    html = STYLE.sub(lambda link: f'<link rel="stylesheet" href="web/page/{link[1]}">', html)
    html = html.replace(HEAD, HEAD + _policy(FROM_HOST), 1)
    start = f"<script>\n{_start('site.js', entry)}</script>"
    files |= {"index.html": _with_parts(html, start).encode(), "LICENSES.txt": licences().encode()}
    with make_new_folder(folder) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)


def _html_and_entry(page: Path) -> tuple[str, str | None]:
    """The page's HTML without its module, and that module's path; None: it has none."""
    html = _text(page / "index.html")
    entry = ENTRY.search(html)
    if entry is None:
        return html, None
    return html.replace(entry[0], "", 1), f"web/page/{entry[1]}"


def _start(name: str, entry: str | None) -> str:
    """The script that starts the page: where its modules and assets are."""
    values = {"ASSETS": list(assets()), "WORKER": WORKER, "ENTRY": entry}
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    scripts = "".join(_text(ROOM / "start" / script) for script in ("failed.js", name))
    return f"{{\n{constants}{scripts}}}\n"


def _with_parts(html: str, parts: str) -> str:
    before, end, after = html.rpartition("</body>")
    return f"{before}{parts}\n{end}{after}" if end else f"{html}{parts}\n"


def _inline(kind: str, name: str, text: str) -> str:
    if "</" in text:
        raise ValueError(
            f"{name} holds </, which ends the script that it stands in; write it differently"
        )
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _policy(sources: Mapping[str, str]) -> str:
    policy = POLICY.format(**sources)
    return f'\n<meta http-equiv="Content-Security-Policy" content="{policy}">'


@functools.lru_cache(maxsize=16)  # the runtime takes a second, and both pages contain it
def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)  # no date: the same parts give the same page


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
