"""Run the notebooks and keep what they show: `python -m tests.notebooks [FOLDER]`.

Each becomes an `.ipynb` in FOLDER, build/notebooks if none is given.
"""

import os
import pathlib
import sys
import time

from tests.lazily import Lazily

jupytext, nbclient, nbformat = map(Lazily, ("jupytext", "nbclient", "nbformat"))
ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
MOST_SECONDS = 900  # of a cell, on a machine that has other things to do


def run(path, folder):
    """Run one notebook in `folder`; returns it with its outputs, or raises as its cell did."""
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook,
        timeout=MOST_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # TensorFlow tells stderr about the machine; what goes wrong raises.
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "notebooks")
    folder.mkdir(parents=True, exist_ok=True)
    for path in NOTEBOOKS:
        start = time.perf_counter()
        notebook = run(path, folder)
        nbformat.write(notebook, folder / f"{path.stem}.ipynb")
        print(f"{folder / path.stem}.ipynb: {time.perf_counter() - start:.0f} seconds", flush=True)


if __name__ == "__main__":
    main()
