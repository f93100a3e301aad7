from dataclasses import replace

import pytest
import torch

from autounet.networks import build
from autounet.training.finetune import fitted
from planners.errors import UserError
from planners.labels import LabelClass, Labels
from planners.plan import ChannelPlan
from tests.training.tiny import recipe


def with_names(classes, channels):
    plan = recipe(labels=Labels(classes=tuple(LabelClass(name=n, value=i) for i, n in enumerate(classes)))).plan
    return replace(plan, channels=tuple(ChannelPlan(name=n, modality="mr", scheme="zscore") for n in channels))


def network(plan):
    return build(plan.configurations[0].architecture, len(plan.channels), plan.labels.heads).state_dict()


def test_the_same_task_is_copied_whole():
    plan = with_names(("background", "liver", "spleen"), ("t1",))
    source = network(plan)
    result = fitted(network(plan), source, plan, plan)
    assert all(torch.equal(result.weights[n], source[n]) for n in source)


def test_classes_go_by_name_and_channels_too():
    old, new = with_names(("background", "liver", "spleen"), ("t1", "t2")), with_names(("background", "spleen", "tumour"), ("flair", "t2"))
    source, fresh = network(old), network(new)
    result = fitted(fresh, source, new, old).weights
    head, first = "decoder.heads.1.weight", "encoder.stages.0.0.conv.weight"
    assert torch.equal(result[head][0], source[head][0])
    assert torch.equal(result[head][1], source[head][2])
    assert torch.equal(result[head][2], fresh[head][2])
    assert torch.equal(result[first][:, 1], source[first][:, 1])
    torch.testing.assert_close(result[first][:, 0], source[first].mean(1))


def test_the_table_names_what_did_not_fit():
    plan = with_names(("background", "liver", "spleen"), ("t1",))
    source = network(plan)
    source["encoder.stages.1.0.conv.weight"] = source["encoder.stages.1.0.conv.weight"][:4]
    lines = fitted(network(plan), source, plan, plan).lines()
    assert any(line.startswith("encoder.stages.1.0.conv.weight: fresh: (4, 8, 3, 3, 3) does not fit (8, 8, 3, 3, 3)") for line in lines)


def test_a_model_of_which_nothing_fits_is_refused():
    plan = with_names(("background", "liver", "spleen"), ("t1",))
    with pytest.raises(UserError, match="no tensor"):
        fitted(network(plan), {"other": torch.zeros(1)}, plan, plan)
