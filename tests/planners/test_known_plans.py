"""Plans of known tasks are kept, so that a changed rule shows what it changes.

After a change that is meant: `python -m tests.planners.test_known_plans` writes them anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from planners.default import plan_default
from planners.hardware import Budget
from planners.plan import Plan
from tests.planners.cases import CPU, GPU
from tests.planners.test_default import TASKS, task

KNOWN = Path(__file__).parents[1] / "golden" / "default_plans.json"
MACHINES = {"cpu": CPU, "gpu": GPU}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_plan_of_a_known_task_is_the_one_that_was_kept(name: str, machine: str) -> None:
    kept = json.loads(KNOWN.read_text())
    assert facts(plan_default(task(name), MACHINES[machine], Budget())) == kept[f"{name}, {machine}"]


def facts(plan: Plan) -> dict[str, Any]:
    return {"train": list(plan.train), **{one.name: _said(one) for one in plan.configurations}}


def _said(one: Any) -> str:
    net = one.architecture
    patch, mm = "x".join(map(str, one.patch_zyx)), "x".join(f"{mm:.4g}" for mm in one.spacing_zyx_mm)
    return (
        f"{net.kind} {net.features[0]}, {len(net.features)} stages; {one.batch_size} of {patch} at {mm} mm in {one.accumulate};"
        f" {one.schedule.optimiser} {one.schedule.iterations} {one.schedule.seconds}; {one.memory.training_bytes >> 20} MiB"
    )


if __name__ == "__main__":
    plans = {f"{n}, {m}": facts(plan_default(task(n), MACHINES[m], Budget())) for n in TASKS for m in MACHINES}
    KNOWN.write_text(json.dumps(plans, indent=1) + "\n")
