"""`physdiff evaluate` and `physdiff report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from physdiff.actions import find_action
from physdiff.commands.model_data import data_of
from physdiff.evaluation.evaluate import EvaluationSettings, read_metrics
from physdiff.evaluation.evaluate import evaluate as evaluate_model
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.report import write_report
from physdiff.evaluation.reweighting import ImportanceSettings, check_comparison, reweigh, titled
from physdiff.model import FieldModel


def evaluate(
    run: str,
    data: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    settings: EvaluationSettings = EvaluationSettings(),  # noqa: B008  frozen
    title: str | None = None,
    action: str | None = None,
    action_settings: dict[str, Any] | None = None,
    importance: ImportanceSettings = ImportanceSettings(),  # noqa: B008  frozen
) -> None:
    """Measure a trained model on held-out data, and write the report.

    With an action S its samples are weighted by e^{−S}/q as well: effective samples, free energy and averages of the
    law e^{−S}, written to RUN/importance.json.

    Args:
        run: Run folder.
        data: Data set folder or file; the one it was trained on when not given.
        split: Split of a folder to evaluate on; "test" when not given.
        layout: YAML file with what the data does not tell; that of training when not given.
        settings: How to evaluate.
        title: Headline of the report.
        action: S of physical fields: LatticePhi4, or your own function as `module.function` or `file.py:function`,
            from shape (n, channels, *grid) to (n,).
        action_settings: Its settings, such as `--action_settings.coupling 0.1`.
        importance: How the weights are computed.
    """
    if action is None and action_settings:
        raise ValueError(f"action_settings are those of an action; name it with --action. Got {action_settings}.")
    law = None if action is None else find_action(action, action_settings)
    folder = Path(run)
    model = FieldModel.load(folder)
    held_out, source = data_of(model, data, split, layout)
    if law is not None and model.conditions:
        told = ", ".join(model.conditions.names)
        raise ValueError(f"an action says the law of all fields; this model is one of fields given {told}.")
    if law is not None:
        check_comparison(model, law, held_out, importance)
    title = title or f"{', '.join(model.names)} · {'data by split' if source.startswith('{') else Path(source).name}"
    findings = evaluate_model(model, held_out, settings, title)
    findings = dataclasses.replace(findings, metrics=read_metrics(folder))
    findings.save(folder)
    _show(findings, folder)
    if law is not None:
        assert action is not None
        found = reweigh(model, law, held_out, importance, titled(action, action_settings), progress=True)
        print(f"{found.table()}\nwritten: {found.save(folder)}")


def report(run: str) -> None:
    """Draw the report of a run that was evaluated; evaluate it first if it was not.

    Args:
        run: Run folder.
    """
    folder = Path(run)
    if not (folder / "evaluation.json").is_file():
        evaluate(run)
        return
    _show(Findings.load(folder), folder)


def _show(findings: Findings, folder: Path) -> None:
    target = folder / "report.html"
    write_report(findings, target)
    for check in findings.checks:
        print(f"{'pass' if check['passed'] else 'FAIL'}  {check['name']}: {check['measured']}")
    if caveats := findings.settings.get("evaluation", {}).get("caveats"):
        print(caveats)
    print(f"report: {target}")
