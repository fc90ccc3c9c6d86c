"""The plots of docs/benchmarks.md can be drawn from the results that are there."""

import pytest

from tests.bench import figures

pytest.importorskip("matplotlib", reason="plots need the [plots] extra")


@pytest.mark.thorough
def test_every_result_is_drawn(tmp_path):
    from PIL import Image

    from tests.bench import plots

    plots.main(["--out", str(tmp_path)])
    names = {"hamming.png"} | {f"{path.stem}.png" for path in figures.FOLDER.glob("coarse_fine_*")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        with Image.open(tmp_path / name) as image:
            # Colours besides black, white and grey: points were drawn, not only axes.
            colours = image.convert("RGB").getcolors(1 << 24)
            assert any(max(colour) - min(colour) > 60 for _, colour in colours)


def test_a_plot_shows_the_figures_of_the_file():
    from tests.bench import plots

    results = figures.read("hamming")
    axes = plots.hamming(results).axes
    [lines] = [axis.get_lines() for axis in axes if axis.get_title() == "learned codes, range"]
    drawn = {line.get_label(): list(line.get_ydata()) for line in lines}
    wanted = [
        cell["milliseconds"]["faiss_flat"]["median"]
        for cell in results["rows"]
        if (cell["codes"], cell["task"], cell["bits"]) == ("learned", "range", 64)
        and (cell["queries"], cell["threads"]) == (1, 1)
    ]
    assert sorted(drawn["FAISS flat"]) == sorted(wanted)
