"""What `make docs` adds to MkDocs: the pages beside docs/, and one for each public module.

A link that leads to a module of ours leads to its page; one to any other file of the repository
becomes its text, since the site does not hold that file.
"""

import ast
import functools
import inspect
import pathlib
import posixpath
import re

import griffe
from mkdocs.structure.files import File

import hashnet

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Where the pages that lie elsewhere in the repository go.
PAGES = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}
# The one that made the sample, once, and the commands, which docs/cli.md describes.
LEFT_OUT = re.compile(r"hashnet\.((samples|retrieval\.words)\.make_\w+|cli)\b")
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s]+)\)")


SEVERAL = re.compile(r"^    ([*\w]+(?:, [*\w]+)+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Our docstrings as griffe knows them: `Examples:`, and an entry for each argument."""

    def on_object(self, *, obj, **_):
        """Griffe calls this for all that it has read.

        Args:
            obj: a `griffe.Object`.
        """
        if obj.docstring:
            text = re.sub(r"^Example:", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = SEVERAL.sub(
                lambda found: "\n".join(f"    {one}: {found[2]}" for one in found[1].split(", ")),
                text,
            )


@functools.cache
def modules():
    """dict of the file of each module that has public functions or classes to its name."""
    found = {}
    for path in sorted((ROOT / "hashnet").rglob("*.py")):
        place = path.relative_to(ROOT)
        name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        kinds = (ast.FunctionDef, ast.ClassDef)
        defined = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, kinds)]
        if any(not node.name.startswith("_") for node in defined) and not LEFT_OUT.match(name):
            found[place.as_posix()] = name
    return found


def on_config(config):
    """Put the modules, and the pages of the repository, at the end of the navigation."""
    config.nav = [
        *config.nav,
        {"Modules": [{name: f"modules/{name}.md"} for name in modules().values()]},
        {"Project": [name for name in PAGES if name != "README.md"]},
    ]
    return config


def on_files(files, config):
    """Add the pages that do not lie in docs/."""
    for source, page in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    for name in modules().values():
        content = f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        if name == "hashnet.api":
            content += "      inherited_members: true\n"
        files.append(File.generated(config, f"modules/{name}.md", content=content))
    return files


def on_page_markdown(markdown, page, files, **_):
    """Let links lead to where their targets are in the site."""
    here = page.file.src_uri
    source = {to: name for name, to in PAGES.items()}.get(here, f"docs/{here}")
    pages = PAGES | {path: f"modules/{name}.md" for path, name in modules().items()}

    def led(found):
        image, text, link = found.groups()
        path, mark, heading = link.partition("#")
        if not path or ":" in path:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = pages.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(inside) is None:
            # What is nowhere stays a link, of which MkDocs complains.
            return text if (ROOT / target).exists() else found[0]
        way = posixpath.relpath(inside, posixpath.dirname(here) or ".")
        return f"{image}[{text}]({way}{mark}{heading})"

    if here == "python.md":
        markdown = re.sub(r"`hashnet\.(\w+)`(?= \|)", _to_its_page, markdown)
    return LINK.sub(led, markdown)


def _to_its_page(found):
    """The name of a table as a link to where the reference has it."""
    named = getattr(hashnet, found[1])
    if not isinstance(named, type) and not inspect.isfunction(named):
        return f"[{found[0]}](../{'/'.join(type(named).__module__.split('.'))}/__init__.py)"
    path = pathlib.Path(inspect.getsourcefile(named)).relative_to(ROOT).as_posix()
    return f"[{found[0]}](../{path}#{named.__module__}.{found[1]})"
