"""The report: one HTML file that holds everything it shows, to be opened, mailed or printed as it is."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from physdiff.atomic import replacing_file
from physdiff.evaluation import captions
from physdiff.evaluation.field_figures import fields_figure
from physdiff.evaluation.figure_style import png
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.model_figures import denoising_figure, likelihood_figure, training_figure
from physdiff.evaluation.statistics_figures import one_point_figure, spectrum_figure
from physdiff.evaluation.wording import duration, number, with_error
from physdiff.grid import Grid


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        title: What it shows, in a few words.
        caption: What to look at, with the numbers.
        image: The figure as a data URL.
        wide: Whether it takes the whole width of the page.
    """

    title: str
    caption: str
    image: str
    wide: bool


def write_report(findings: Findings, path: str | Path) -> Path:
    """Write a report as one self-contained HTML file, atomically; returns its path.

    Parts that the findings do not have (yet) are left out.

    Args:
        findings: What to show.
        path: The file; its folder is made when missing.
    """
    path = Path(path)
    html = render_report(findings)
    with replacing_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def render_report(findings: Findings) -> str:
    """The report's HTML."""
    environment = Environment(
        loader=PackageLoader("physdiff.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _measured
    return environment.get_template("report.html.jinja").render(
        findings=findings,
        grid=Grid(**findings.grid).describe(),
        summary=captions.summary(findings),
        headlines=_headlines(findings),
        pictures=_pictures(findings),
        tables=_tables(findings),
        passed=sum(check["passed"] for check in findings.checks),
    )


def _pictures(findings: Findings) -> list[Picture]:
    several = len(findings.names) > 1
    pictures: list[Picture] = []

    def add(title: str, draw: Callable[[], Figure], caption: str, wide: bool = False) -> None:
        image = "data:image/png;base64," + base64.b64encode(png(draw())).decode("ascii")
        pictures.append(Picture(title, caption, image, wide))

    channels = range(len(findings.names)) if findings.ensembles else ()
    for c in channels:
        of = f": {findings.names[c]}" if several else ""
        add(f"Fields{of}", lambda c=c: fields_figure(findings, c), captions.fields_caption(findings, c), True)
    if findings.likelihood is not None:
        add("Likelihood", lambda: likelihood_figure(findings), captions.likelihood_caption(findings), True)
    for c in channels:
        of = f": {findings.names[c]}" if several else ""
        add(f"Spectrum{of}", lambda c=c: spectrum_figure(findings, c), captions.spectrum_caption(findings, c))
        add(f"Cell values{of}", lambda c=c: one_point_figure(findings, c), captions.one_point_caption(findings, c))
    if findings.denoising:
        add("Denoising", lambda: denoising_figure(findings), captions.denoising_caption(findings))
    if findings.metrics:
        add("Training", lambda: training_figure(findings), captions.training_caption(findings))
    return pictures


def _headlines(findings: Findings) -> list[tuple[str, str]]:
    """The main numbers, each with what it is."""
    found, lines = findings.likelihood, []
    if found is not None:
        gain = with_error(found.mean_gain, found.mean_gain_error, plus=True)
        lines.append((gain, "nats per dimension over the Gaussian reference"))
        lines.append((f"{found.wins} / {len(found)}", "fields above their phase-scrambled surrogate"))
        lines.append((captions.smallest_gap(found), "smallest such gap, in standard errors"))
    if findings.denoising:
        best = min(record["model_error"] / record["wiener_error"] for record in findings.denoising)
        lines.append((f"{100 * (1 - best):.0f} %", "less denoising error than the Wiener filter, at best"))
    if findings.seconds:
        lines.append((duration(sum(findings.seconds.values())), "for the whole run"))
    return lines


def _tables(findings: Findings) -> list[tuple[str, list[tuple[str, str]]]]:
    """Two-column tables under their headings; empty ones left out."""
    seconds = [(name, duration(value)) for name, value in findings.seconds.items()]
    if len(seconds) > 1:
        seconds.append(("total", duration(sum(findings.seconds.values()))))
    tables = [
        ("Settings", _flat(findings.settings)),
        ("Counts", [(name.replace("_", " "), number(value)) for name, value in findings.counts.items()]),
        ("Times", [(name.replace("_", " "), value) for name, value in seconds]),
        ("Seeds", [(name.replace("_", " "), str(value)) for name, value in findings.seeds.items()]),
        ("Versions", list(findings.versions.items())),
    ]
    return [(heading, rows) for heading, rows in tables if rows]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, _setting(value)))
    return rows


def _setting(value: Any) -> str:
    """A value as in YAML, so that it can be copied back into a configuration."""
    if isinstance(value, list):
        return "[" + ", ".join(_setting(item) for item in value) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _measured(value: str | float) -> str:
    return value if isinstance(value, str) else number(value, 4)
