"""The reference's half of bench_train.py; runs in an environment that has nnunetv2. Prints one JSON line a measurement."""

import argparse
import json
import time

import numpy as np
import torch


def augment(patch: list[int], classes: int, seconds: float) -> dict[str, float]:
    """nnU-Net's training transforms on random volumes of the size its loader reads; one thread."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    dimensions = len(patch)
    limit = 30 if dimensions == 3 else (15 if max(patch) / min(patch) > 1.5 else 180)
    angles = (-limit / 360 * 2 * np.pi, limit / 360 * 2 * np.pi)
    loaded = [int(i) for i in get_patch_size(np.array(patch), angles, angles, angles, (0.85, 1.25))]
    scales = [[1 / 2**level] * dimensions for level in range(5)]
    steps = nnUNetTrainer.get_training_transforms(
        patch, angles, scales, tuple(range(dimensions)), False, use_mask_for_norm=[False], foreground_labels=list(range(1, classes))
    )
    image = torch.randn(1, *loaded)
    coarse = torch.rand(1, 1, *[max(2, i // 16) for i in loaded])
    label = torch.nn.functional.interpolate(coarse, loaded)[0].mul(classes).to(torch.int16)
    steps(image=image.clone(), segmentation=label.clone())
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        steps(image=image.clone(), segmentation=label.clone())
        count += 1
    return {"cpu_ms": 1000 * (time.process_time() - cpu) / count, "count": count}


def step(patch: list[int], batch: int, features: list[int], classes: int, repeats: int) -> dict[str, float]:
    """A training step as nnU-Net does it on a processor: float32, contiguous, with deep supervision."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from torch import nn

    dimensions, stages = len(patch), len(features)
    convolution, norm = (nn.Conv3d, nn.InstanceNorm3d) if dimensions == 3 else (nn.Conv2d, nn.InstanceNorm2d)
    network = PlainConvUNet(
        1, stages, features, convolution, [[3] * dimensions] * stages, [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        [2] * stages, classes, [2] * (stages - 1), conv_bias=True, norm_op=norm, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    weights = np.array([1 / 2**i for i in range(stages - 1)])
    weights[-1] = 0
    plain = DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
    loss = DeepSupervisionWrapper(plain, tuple(weights / weights.sum()))
    optimiser = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    image, label = torch.randn(batch, 1, *patch), torch.randint(0, classes, (batch, 1, *patch)).float()
    levels = [label[(slice(None), slice(None), *[slice(2**i // 2, None, 2**i)] * dimensions)] for i in range(stages - 1)]
    spent = []
    for _ in range(repeats + 1):
        cpu = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        loss(network(image), levels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimiser.step()
        spent.append(time.process_time() - cpu)
    return {"cpu_s": float(np.median(spent[1:])), "count": repeats}


def main() -> None:
    """One measurement a call, so that two programs can take turns on one machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("augment", "step"))
    parser.add_argument("--patch", type=lambda text: [int(n) for n in text.split(",")], required=True)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--features", type=lambda text: [int(n) for n in text.split(",")], default=[32, 64, 128, 256, 320, 320])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    if given.what == "augment":
        print(json.dumps(augment(given.patch, given.classes, given.seconds)))
    else:
        print(json.dumps(step(given.patch, given.batch, given.features, given.classes, given.repeats)))


if __name__ == "__main__":
    main()
