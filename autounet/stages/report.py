"""One page about a run: the data, the plan, the training, the scores, the model. Case ids only, no paths."""

from pathlib import Path

from autounet.job import Job
from autounet.report.gather import gather
from autounet.report.page import render
from autounet.report.sections import page_of
from autounet.store.files import publish_text


def report(work: Path, job: Job, *, public: bool = False) -> Path:
    """Write <work>/report/index.html from what lies in the work folder; what is missing is left out."""
    path = work / "report" / "index.html"
    publish_text(path, render(page_of(gather(work), public=public)))
    job.progress.event("report", public=public)
    return path
