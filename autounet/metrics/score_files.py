"""Scores as files: the long table, JSON, and the reference's summary; and back."""

import json
from pathlib import Path

from autounet.metrics.scores import Scores, as_csv, as_plain, as_reference_summary
from autounet.store.files import publish_json, publish_text


def write_scores(scores: Scores, folder: Path) -> None:
    """scores.csv, scores.json and nnU-Net's summary.json."""
    publish_text(folder / "scores.csv", as_csv(scores))
    publish_json(folder / "scores.json", as_plain(scores))
    publish_text(folder / "summary.json", json.dumps(as_reference_summary(scores), indent=4))
