"""One page about a run: the data, the plan, the training, the scores, the model. Case ids only, no paths."""

from pathlib import Path

from autounet.job import Job
from autounet.report.gallery import Gallery, gallery
from autounet.report.gather import gather
from autounet.report.page import render
from autounet.report.sections import page_of
from autounet.report.viewer import publish_viewer
from autounet.store.files import publish_text


def report(work: Path, job: Job, *, public: bool = False) -> Path:
    """Write <work>/report/index.html from what lies in the work folder; what is missing is left out, as are pictures of a public one."""
    folder = work / "report"
    material = gather(work)
    shown = Gallery() if public else gallery(material, job)
    volumes = publish_viewer(folder, shown.volumes)
    publish_text(folder / "index.html", render(page_of(material, shown, volumes)))
    job.progress.event("report", public=public)
    return folder / "index.html"
