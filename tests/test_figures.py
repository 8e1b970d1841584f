"""Figures carry a description, the same bytes each time, and tables no more digits than machines agree on."""

import base64
import struct

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gencausal import figures
from gencausal.checks import InputError

ALT = "A line that falls from one to zero"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (data, metadata)."""
    calls = []
    monkeypatch.setattr(figures, "display", lambda data, raw, metadata=None: calls.append((data, metadata)))
    return calls


def draw():
    fig, axes = figures.new(height=2.0)
    axes.plot([1, 0])
    return fig


def test_a_figure_is_shown_closed_and_described(shown):
    before = plt.get_fignums()
    figures.show(draw(), alt=ALT, caption="Falling")
    (data, metadata), = shown
    png = base64.b64decode(data["image/png"])
    assert metadata["image/png"] == {"alt": ALT, "caption": "Falling", "width": 480, "height": 200} and data["text/plain"] == f"Figure: {ALT}"
    assert struct.unpack(">II", png[16:24]) == (960, 400) and b"Software" not in png and plt.get_fignums() == before


def test_a_figure_has_the_same_bytes_twice(shown):
    figures.show(draw(), alt=ALT)
    figures.show(draw(), alt=ALT)
    assert shown[0] == shown[1]


def test_a_figure_without_a_description_is_refused(shown):
    for alt in ("", "figure"):
        with pytest.raises(InputError, match="alt must describe"):
            figures.show(draw(), alt=alt)
    plt.close("all")


def test_text_is_legible_on_a_narrow_screen():
    """At 360 pixels the figure is 360 / 4.8 = 75 pixels an inch; the smallest label must be 8 pixels high or more."""
    fig = draw()
    fig.draw_without_rendering()
    sizes = [text.get_fontsize() for text in fig.findobj(plt.Text) if text.get_text()]
    plt.close(fig)
    assert min(sizes) * 75 / 72 >= 8


def test_forest_draws_a_line_a_row_and_says_when_there_is_none(shown, capsys, monkeypatch):
    table = pd.DataFrame({"label": ["a", "b", "c"], "ours": [0.1, 0.2, np.nan], "ci_low": [0.05, np.nan, np.nan], "ci_high": [0.2, np.nan, np.nan], "verdict": ["reproduced in direction", "not shown", "not run"]})
    drawn = []
    monkeypatch.setattr(figures, "show", lambda fig, alt, caption: drawn.append(fig))
    figures.forest(table, reference=0, xlabel="x", alt=ALT)
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"], "a claim without a number has no line"
    assert sorted(text.get_text() for text in axes.texts) == ["not shown", "reproduced in direction"], "the verdict is written, not only coloured"
    plt.close(drawn[0])
    figures.forest(table.iloc[2:], reference=0, xlabel="x", alt=ALT)
    assert len(drawn) == 1 and "No claim" in capsys.readouterr().out


def test_tables_are_rounded(shown):
    frame = pd.DataFrame({"name": ["a<b>"], "x": [0.123456], "noise": [4.9e-14], "n": [4802], "whole": [3.0], "none": [np.nan], "yes": [True]})
    figures.table(frame)
    html, text = shown[0][0]["text/html"], shown[0][0]["text/plain"]
    assert text.split("\n")[1].split() == ["a<b>", "0.123", "0", "4802", "3", "–", "yes"]
    assert "a&lt;b&gt;" in html and "0.123<" in html
    with pytest.raises(InputError, match="1 to 4"):
        figures.rounded(frame, digits=6)


def test_pictures_stand_in_named_rows(shown):
    """Colour and grey images, rows of different lengths; values outside [0, 1] are cut."""
    rng = np.random.default_rng(0)
    figures.pictures({"first": rng.uniform(-1, 2, (3, 3, 8, 8)), "second": rng.random((2, 3, 8, 8))}, alt=ALT, caption="Rows")
    figures.pictures({"grey": rng.random((4, 1, 8, 8))}, alt=ALT)
    assert [metadata["image/png"]["caption"] for _, metadata in shown] == ["Rows", ""] and shown[0][1]["image/png"]["height"] > shown[1][1]["image/png"]["height"]
