"""Everything from images to a report on a device that is none, augmentation included. Arguments: kind of phantoms, folder."""

import json
import sys
from pathlib import Path

from tests.far_device import FAR, put_everything_there

STEPS = 6

if __name__ == "__main__":
    put_everything_there()
    from autounet import phantoms, pipeline
    from autounet.job import Job
    from autounet.progress import Progress, Voice
    from autounet.training import on_device

    batches = on_device.Augmenter.batch
    made: list[str] = []

    def noted(self: on_device.Augmenter, raws: list[on_device.Raw]) -> on_device.Batch:
        batch = batches(self, raws)
        assert batch.image.device == FAR
        made.append(batch.cases[0])
        return batch

    on_device.Augmenter.batch = noted  # type: ignore[method-assign]
    folder = Path(sys.argv[2])
    phantoms.make(sys.argv[1], folder / "data", cases=4, size=24, seed=0)
    job = Job(work=folder / "work", progress=Progress(Voice(stream=sys.stderr)), seed=0, threads=1, device="cpu")
    wishes = pipeline.Wishes(seconds=600, iterations=STEPS, folds=(0,))
    data = pipeline.check(folder / "data", job, wishes)
    pipeline.decide(pipeline.measure(data, job), job, wishes)
    plan = json.loads((job.work / "plan.json").read_text())
    for configuration in plan["configurations"]:
        configuration["augmentation"]["runs_on"] = "device"
    (job.work / "plan.json").write_text(json.dumps(plan))
    outcome = pipeline.run(folder / "data", job, wishes)
    assert outcome.model.exists()
    assert outcome.report.exists()
    assert len(made) >= STEPS
