"""From a fingerprint and a budget to plan.json, with reasons."""

from pathlib import Path

from autounet.job import Job
from autounet.store.files import publish_json
from autounet.store.strict import read_value
from planners import planner
from planners.explain import one_screen
from planners.fingerprint import Fingerprint
from planners.hardware import Budget, Hardware
from planners.plan import Plan
from planners.strict_json import to_plain

PLAN = "plan.json"


def plan(fingerprint: Fingerprint, hardware: Hardware, budget: Budget, planner_name: str, job: Job) -> Plan:
    """Decide everything, write it down, and say it on one screen."""
    decided = planner(planner_name)(fingerprint, hardware, budget)
    job.work.mkdir(parents=True, exist_ok=True)
    publish_json(job.work / PLAN, to_plain(decided))
    job.progress.event("planned", planner=decided.planner, train=list(decided.train))
    job.progress.detail(one_screen(decided, fingerprint))
    return decided


def read_plan(path: Path) -> Plan:
    """A plan that may have been edited by hand: the same checks as when it is made."""
    return read_value(path, Plan)
