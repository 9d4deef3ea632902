"""The report: one file that holds its numbers and pictures, whatever parts there are."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_findings import complete, held_out

from physdiff.evaluation.field_figures import ColourScale, fields_figure
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.model_figures import denoising_figure, likelihood_figure, training_figure
from physdiff.evaluation.readme_figure import summary_figure
from physdiff.evaluation.report import render_report, write_report
from physdiff.evaluation.statistics_figures import one_point_figure, spectrum_figure
from physdiff.evaluation.wording import duration, number, signed, with_error
from physdiff.grid import Grid


class Page(HTMLParser):
    """What a browser would fetch from a page, its visible text, and whether its tags close."""

    EMPTY = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += " ".join(data.split()) + "\n"


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(complete())


def test_the_page_fetches_nothing(html: str) -> None:
    page = Page(html)
    assert len(page.links) == 9  # two channels: fields, spectrum and values of each; three figures of the model
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in html and "@import" not in html
    assert not re.search(r"https?://", html)


def test_the_pictures_are_pictures(html: str) -> None:
    for link in Page(html).links:
        pixels = imread(io.BytesIO(base64.b64decode(link.partition(",")[2])), format="png")
        assert pixels.shape[1] > 1000 and float(pixels[..., :3].std()) > 0.02


def test_the_page_states_the_numbers(html: str) -> None:
    found, text = complete(), Page(html).text
    likelihood = found.likelihood
    assert likelihood is not None
    gain = f"{likelihood.mean_gain:.4f} ± {likelihood.mean_gain_error:.4f}"
    for words in (
        "A test <of> everything", "dx = κ ∇²x dτ + σ dW", "9 (y, neumann, 2 m)", gain, "6 / 6",
        number(float(likelihood.gap_in_errors.min())), "8 Hutchinson probes", "77 network evaluations", "7.25",
        "Checks: 1 of 2 hold", "FAIL", "train.learning_rate", "0.30000000000000004", "[0.9, 0.99]",
        "9007199254740991", "3 min 20 s", "20 %", "0.800 in validation",
    ):  # fmt: skip
        assert words in text, words


def test_words_are_escaped(html: str) -> None:
    assert "<of>" not in html and "&lt;of&gt;" in html


@pytest.mark.parametrize(
    ("missing", "heading"),
    [
        ({"likelihood": None}, "Likelihood"),
        ({"denoising": []}, "Denoising"),
        ({"metrics": []}, "Training"),
        ({"checks": []}, "Checks: 1 of 2 hold"),
        ({"data": None, "samples": None, "reference_samples": None}, "Fields: vorticity"),
        ({"seeds": {}}, "Seeds"),
    ],
)
def test_a_missing_part_is_left_out(
    html: str, missing: dict[str, object], heading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("physdiff.evaluation.report.png", lambda _: b"a picture")
    assert f"{heading}\n" in Page(html).text
    text = Page(render_report(replace(complete(), **missing))).text  # pyright: ignore[reportArgumentType]
    assert f"{heading}\n" not in text


def test_next_to_nothing_is_a_page_too() -> None:
    bare = Findings("bare", Grid(4).to_dict(), ("u",), ("",), "Heat", "")
    page = Page(render_report(bare))
    assert "not been computed yet" in page.text and not page.links


def test_a_conditional_model_says_what_it_is_told(html: str, tmp_path: Path) -> None:
    told = replace(complete(), conditions=("permeability", "source"))
    told.save(tmp_path)
    said = render_report(Findings.load(tmp_path))
    assert "given permeability, source on " in said
    assert "The model is told permeability, source; the reference is not" in said
    assert " is told" not in html


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Findings("first", Grid(4).to_dict(), ("u",), ("",), "Heat", "")
    path = write_report(bare, tmp_path / "new" / "report.html")
    before = path.read_text(encoding="utf-8")

    def full_disk(*_: object, **__: object) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(replace(bare, title="second"), path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"standard_error": np.zeros(6), "surrogate_standard_error": np.zeros(6), "probes": 0}, "an exact trace"),
        ({"standard_error": np.full(6, math.nan), "probes": 1}, "no error bar"),
        ({"log_prob": np.zeros(6)}, "below that of the Gaussian reference, and it finds 0 of 6"),
    ],
)
def test_the_summary_claims_no_more_than_there_is(changes: dict[str, object], words: str) -> None:
    found = replace(complete(), data=None, samples=None, reference_samples=None, likelihood=held_out(**changes))  # pyright: ignore
    assert words in Page(render_report(found)).text


@pytest.mark.parametrize(
    "grid",
    [
        Grid(12, 3.0, "dirichlet"),
        Grid((6, 30), (1.0, 9.0), "neumann"),
        Grid((4, 5, 6), 1.0, ("periodic", "neumann", "dirichlet"), units=("m", "m", "hPa")),
    ],
    ids=Grid.describe,
)
def test_every_figure_draws_in_any_number_of_dimensions(grid: Grid) -> None:
    found, style = complete(grid), dict(mpl.rcParams)
    figures = [
        fields_figure(found), spectrum_figure(found, 1), one_point_figure(found, 1), likelihood_figure(found),
        denoising_figure(found), training_figure(found), summary_figure(found),
        summary_figure(replace(found, likelihood=None, samples=None)),
    ]  # fmt: skip
    for figure in figures:
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    assert dict(mpl.rcParams) == style


def test_sets_share_the_scale_of_the_data() -> None:
    found = complete(Grid((8, 9)))
    assert found.data is not None and found.samples is not None
    louder = replace(found, data=found.data * 3, samples=found.samples * 100)
    limits = {image.get_clim() for axes in fields_figure(louder).axes for image in axes.get_images()}
    limit = max(abs(q) for q in np.quantile(louder.data[:, 0], [0.002, 0.998]))  # pyright: ignore
    assert len(limits) == 1 and limits.pop() == pytest.approx((-limit, limit))


def test_only_signed_values_get_a_scale_around_zero() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    signed_scale, positive = ColourScale.of(x), ColourScale.of(x + 10)
    assert signed_scale.signed and signed_scale.low == -signed_scale.high
    assert not positive.signed and positive.low > 5
    flat = ColourScale.of(np.full(4, 2.0))
    assert flat.low < 2.0 < flat.high


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (number(1234567), "1,234,567"),
        (number(0.012345), "0.0123"),
        (number(-1234.5), "−1,234"),
        (number(1.234e-7), "1.23 × 10⁻⁷"),
        (number(math.inf), "∞"),
        (number(0.0), "0"),
        (signed(0.5), "+0.500"),
        (signed(-0.5), "−0.500"),
        (with_error(0.12345, 0.00214, plus=True), "+0.1235 ± 0.0021"),
        (with_error(-12.0, 3.4), "−12.0 ± 3.4"),
        (with_error(1.0, math.nan), "1.00"),
        (duration(0.345), "0.34\u00a0s"),
        (duration(119.6), "2\u00a0min\u00a000\u00a0s"),
        (duration(7505), "2\u00a0h\u00a005\u00a0min"),
    ],
)
def test_numbers_read_well(got: str, wanted: str) -> None:
    assert got == wanted
