"""What a public docstring must say, checked without importing what it belongs to.

A name without an underscore is public. Every public module, class, function and method has a
docstring. The docstring of a function that takes arguments has an entry for each under `Args:`
and `Returns:` or `Yields:` where it gives something; it names what the function itself raises
under `Raises:`. One that takes none may say what it returns in its first sentence. What another
docstring says already need not be said again: "as `itq`", "see `search`". The docstring of a
class describes its fields and what its constructor takes, or who calls that: "Made by `open`". An
array has a dtype and a shape.

A method of a protocol is described there for all classes that have one of its name. In a package
whose `__init__.py` lists what it gives to others in `__all__`, all else is its own affair and needs
one sentence.
"""

import ast
import re
from dataclasses import dataclass, field

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Reference")
DTYPE = r"bool|u?int\d*|float\d*|any dtype|any real dtype"
# Names of the field that stand for arrays wherever they stand (the words of the glossary).
ARRAYS = {"code", "codes", "feature", "features", "latent", "latents", "image", "yx", "descriptors"}
ARRAYS |= {"allowed", "live", "query_codes", "database_codes"}
SELF = ("self", "cls")
SEE = r"(?:\b[Ss]ee|\b[Aa]s(?: for| in)?) `([\w.]+)`"


@dataclass
class Described:
    """A function or class of the source, and what its docstring says.

    Attributes:
        where: str, `path:line name`.
        name: str, dotted from its module on.
        node: its `ast` node.
        owner: str, dotted name of the class or module it stands in.
        text: str, its docstring; empty where it has none.
        in_protocol: bool. Whether it is a method of a protocol.
    """

    where: str
    name: str
    node: ast.AST
    owner: str
    text: str = field(repr=False)
    in_protocol: bool = False

    def section(self, *titles):
        """Text of the sections with one of these titles; empty where there is none."""
        ends = "|".join(SECTIONS)
        found = re.findall(
            rf"^(?:{'|'.join(titles)}):\n(.*?)(?=^(?:{ends}):|\Z)", self.text, re.M | re.S
        )
        return "\n".join(found)

    def entries(self):
        """dict of an argument's or field's name to what is said of it."""
        entries = {}
        for names, said in re.findall(
            r"^    ([*\w, `]+): (.*(?:\n(?: {8}.*)?)*)", self.section("Args", "Attributes"), re.M
        ):
            entries |= {name.strip(" *`"): " ".join(said.split()) for name in names.split(",")}
        return entries


def described(source, path, module):
    """Every public class, function and method of a module, and the module itself.

    Args:
        source: str, Python.
        path: str, as messages name it.
        module: str, its dotted name.

    Returns:
        list of `Described`; the first one is the module.
    """
    tree = ast.parse(source)
    found = [Described(f"{path}:1", module, tree, "", ast.get_docstring(tree) or "")]

    def visit(body, owner, in_protocol=False):
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if not node.name.startswith("_") and not _is_overload(node):
                    name = f"{owner}.{node.name}"
                    where = f"{path}:{node.lineno} {name.removeprefix(module + '.')}"
                    text = ast.get_docstring(node) or ""
                    found.append(Described(where, name, node, owner, text, in_protocol))
                    if isinstance(node, ast.ClassDef):
                        visit(node.body, name, _is_protocol(node))

    visit(tree.body, module)
    return found


def _is_overload(node):
    """Whether a function is there for type checkers only."""
    return any(ast.unparse(one).endswith("overload") for one in node.decorator_list)


def _is_protocol(node):
    return any(re.match(r"Protocol\b", ast.unparse(base)) for base in node.bases)


def own_affair(source, package):
    """Whether a name below a package is not one that it gives to others.

    Args:
        source: str, Python, of its `__init__.py`.
        package: str, its dotted name.

    Returns:
        A function of a dotted name that gives a bool.
    """
    given = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]

    def is_own(name):
        below = name.removeprefix(f"{package}.").split(".")
        return bool(given) and name.startswith(f"{package}.") and not {*below} & {*given[0]}

    return is_own


def faults(everything, is_own=lambda name: False):
    """What is missing or wrong in the docstrings of a whole program.

    Args:
        everything: list of `Described`, of all modules, so that one may refer to another.
        is_own: function of a dotted name: whether one sentence is enough.

    Returns:
        list of str, `path:line name: what is missing`.

    Example:
        >>> faults(described('def area(width): return width ** 2', "m.py", "m"))
        ['m.py:1: no docstring', 'm.py:1 area: no docstring']
    """
    known = {one.name: one for one in everything}
    promised = {}
    for one in everything:
        if one.in_protocol:
            promised.setdefault(one.name.rpartition(".")[2], []).append(one)
    found = []
    for one in everything:
        owner = known.get(one.owner)
        is_method = owner is not None and isinstance(owner.node, ast.ClassDef)
        promises = promised.get(one.name.rpartition(".")[2], []) if is_method else []
        if not one.text and not promises:
            found.append(f"{one.where}: no docstring")
        elif is_own(one.name):
            continue
        elif isinstance(one.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += [f"{one.where}: {fault}" for fault in _of_function(one, promises, known)]
        elif isinstance(one.node, ast.ClassDef):
            found += [f"{one.where}: {fault}" for fault in _of_class(one)]
    return found


def _of_function(one, promises, known):
    arguments, says = _arguments(one.node), _with_referred(one, known)
    for promise in promises:
        says += _with_referred(promise, known)
        # What a protocol takes by its place alone may have any name.
        by_place = len([arg for arg in promise.node.args.posonlyargs if arg.arg not in SELF])
        arguments = dict([*arguments.items()][by_place:])
    entries = {}
    for said in says:
        entries |= said.entries()
    for name in arguments:
        if name not in entries:
            yield f"Args: says nothing of {name}"
    yield from _of_entries(one, arguments)
    if arguments and _returns(one.node):
        if not any(said.section("Returns", "Yields") for said in says):
            yield "no Returns:"
    raises = "\n".join(said.section("Raises") for said in says)
    for name in _raised(one.node):
        if not re.search(rf"\b{name}\b", raises):
            yield f"Raises: says nothing of {name}"


def _of_class(one):
    methods = {node.name: node for node in one.node.body if isinstance(node, ast.FunctionDef)}
    taken = _arguments(methods["__init__"]) if "__init__" in methods else {}
    taken.pop("options", None)  # a layer passes on what only Keras knows
    if re.search(r"\b[Mm]ade by\s+`", one.text):
        taken = {}  # by a function of ours, not by the caller
    fields = {
        node.target.id
        for node in one.node.body
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_")
    }
    entries = one.entries()
    for name in [*taken, *sorted(fields)]:
        if name not in entries:
            yield f"says nothing of {name}"
    yield from _of_entries(one, taken | _fields_defaults(one.node))


def _of_entries(one, defaults):
    for name, said in one.entries().items():
        if name in ARRAYS and not re.search(rf"\b(?:{DTYPE})\b|`[A-Za-z_][\w.]*`", said):
            yield f"{name} has no dtype"
        if re.search(r"\barray\b", said):
            if not re.search(rf"\b(?:{DTYPE})\b", said):
                yield f"{name} is an array of no dtype"
            if not re.search(r"`\(.*?\)`|any shape|same shape", said):
                yield f"{name} is an array of no shape"
        stated = re.search(r"\bdefaults?(?: is| to|:)? `?([-\w.'\"]*[\w'\"])`?", said)
        if stated and _value(stated[1]) != _value(defaults.get(name)):
            yield f"{name} has the default {defaults.get(name)}, not {stated[1]}"


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arguments(node):
    """dict of an argument's name to the source of its default, or None; self is left out."""
    listed = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(listed) - len(node.args.defaults)) + node.args.defaults
    pairs = [*zip(listed, defaults, strict=True)]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    pairs += [(one, None) for one in (node.args.vararg, node.args.kwarg) if one]
    return {
        argument.arg: default and ast.unparse(default)
        for argument, default in pairs
        if argument.arg not in SELF and not argument.arg.startswith("_")
    }


def _fields_defaults(node):
    return {
        line.target.id: line.value and ast.unparse(line.value)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }


def _own(node):
    """The nodes of a function's body, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _own(child)


def _returns(node):
    return any(
        isinstance(one, (ast.Return, ast.Yield, ast.YieldFrom)) and getattr(one, "value", None)
        for one in _own(node)
    )


def _raised(node):
    """Names of the exceptions that a function raises itself, where the source says which."""
    for one in _own(node):
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call):
            name = ast.unparse(one.exc.func).rpartition(".")[2]
            if name[0].isupper():
                yield name


def _with_referred(one, known):
    """A `Described` and those to which its docstring refers, and so on."""
    found, waiting = [], [one]
    while waiting:
        now = waiting.pop()
        if now in found:
            continue
        found.append(now)
        said = " ".join(now.text.split())
        names = re.findall(SEE, said)
        if re.search(r"\b[Aa]s for the class\b", said):
            names.append(now.owner)
        for name in names:
            module = now.owner if now.owner in known else ""
            places = (f"{now.owner}.{name}", f"{module.rpartition('.')[0]}.{name}", name)
            named = [place for place in places if place in known]
            # Or in whatever module, where only one has it.
            elsewhere = [place for place in known if place.endswith(f".{name}")]
            waiting += [known[place] for place in named or elsewhere * (len(elsewhere) == 1)][:1]
    return found
