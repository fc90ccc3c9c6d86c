"""Write docs/cli.md, the reference of all commands, from the argument parser:

python -m tests.make_cli
"""

import argparse
import dataclasses
import pathlib

from hashnet import cli
from hashnet.cli import commands
from hashnet.cli.train import default_text
from hashnet.train.config import TrainConfig

_TRAIN_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """\
# Every command and option

Written by `python -m tests.make_cli` from the argument parser, so it says what
`hashnet COMMAND --help` says. Answers go to stdout, progress to stderr. Exit status: 0 done,
1 failed, 2 wrong arguments, 3 done, but some inputs were skipped and named.

Every command also takes `-v` (`--verbose`), which says more on stderr: what was chosen, what takes
how long, and each input that was skipped; and `-q` (`--quiet`), which leaves errors and what was
skipped. `python -m hashnet` is the same as `hashnet`. To have commands, options and files completed
in the shell, write what `hashnet completion bash` prints to
`~/.local/share/bash-completion/completions/hashnet` (zsh: `_hashnet` in a folder of `$fpath`; fish:
`~/.config/fish/completions/hashnet.fish`).
"""
# In every command, and said once above.
SHARED = ("help", "verbosity")


def reference(parser):
    """The page: a section for each command, a row for each argument.

    Args:
        parser: `argparse.ArgumentParser` with one group of subparsers.

    Returns:
        str, Markdown.

    Example:
        >>> "## hashnet search" in reference(cli.parser())
        True
    """
    parts = [HEAD, "".join(f"- [{name}](#hashnet-{name})\n" for name in commands(parser))]
    for name, sub in commands(parser).items():
        parts.append(f"## hashnet {name}\n\n{sub.description[0].upper()}{sub.description[1:]}.\n")
        rows = [_row(sub, a) for a in sub._actions if a.dest not in SHARED]
        parts.append(f"| argument | default | meaning |\n|---|---|---|\n{''.join(rows)}")
        for group in sub._mutually_exclusive_groups:
            if group._group_actions[0].dest in SHARED:
                continue
            names = ", ".join(f"`{a.option_strings[-1]}`" for a in group._group_actions)
            parts.append(f"Only one of {names} at a time.\n")
        # The examples are shell lines; argparse puts one at the foot of each --help.
        parts.append(f"```console\n{sub.epilog.removeprefix('example: ').strip()}\n```\n")
    return "\n".join(parts)


def _row(sub, action):
    formatter = sub._get_formatter()
    if action.option_strings:
        named = ", ".join(f"`{option}`" for option in action.option_strings)
        if action.nargs != 0:
            metavar = formatter._get_default_metavar_for_optional(action)
            named += f" `{formatter._format_args(action, metavar)}`"
    else:
        metavar = formatter._get_default_metavar_for_positional(action)
        named = f"`{formatter._format_args(action, metavar)}`"
    meaning = " ".join(formatter._expand_help(action).split())
    # --help ends with the default in brackets; here it has a column.
    default = _default(sub, action)
    meaning = meaning.removesuffix("(required)").removesuffix(f"({default})").rstrip(" .")
    if isinstance(action, argparse._AppendAction):
        meaning += "; again for several"
    cells = [named, f"`{default}`" if default else "", meaning]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _default(sub, action):
    if action.option_strings and action.required:
        return "required"
    if sub.prog.endswith(" train") and action.dest in _TRAIN_DEFAULTS:
        # The parser leaves these to recipes.
        return default_text(_TRAIN_DEFAULTS[action.dest])
    if action.default is None or action.nargs == 0 or action.default == []:
        return ""
    return str(action.default)


if __name__ == "__main__":
    PAGE.write_text(reference(cli.parser()), encoding="utf-8")
    print(f"wrote {PAGE}")
