"""What nnU-Net does in the parity tests; started by a Python that has nnunetv2, with a file of jobs and its three roots.

    python nnunet_side.py JOBS.json

Nothing of AutoUNet is imported here. The trainer, the planner, the preprocessor and the predictor are the reference's own;
only the length of a training, its optimiser and the widths of the networks are changed, so that one takes seconds.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

RAW, PREPROCESSED, AUGMENTERS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_n_proc_DA"  # how nnU-Net is told


def main(argv: list[str]) -> int:
    """Do the jobs one after another."""
    for job in json.loads(Path(argv[1]).read_text()):
        JOBS[job.pop("do")](**job)
    return 0


def plan(*, dataset: int, name: str, planner: str, widths: list[int], changes: dict[str, dict[str, Any]]) -> None:
    """The reference's plans with narrow networks and a few changes, under a name of their own."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, plan_experiments

    folder = _folder(PREPROCESSED, dataset)
    os.environ[AUGMENTERS] = "1"  # also the number of torch's threads while it plans
    extract_fingerprint_dataset(dataset, num_processes=1, clean=not (folder / "dataset_fingerprint.json").exists(), verbose=False)
    planned = plan_experiments([dataset], planner)
    folder = _folder(PREPROCESSED, dataset)
    plans = json.loads((folder / f"{planned}.json").read_text()) | {"plans_name": name}
    for which, change in changes.items():
        pattern = plans["configurations"].get(which) or plans["configurations"]["3d_fullres"]
        plans["configurations"][which] = change if "inherits_from" in change else json.loads(json.dumps(pattern)) | change
    for which, configuration in plans["configurations"].items():
        if "architecture" not in configuration:
            continue
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [widths[min(stage, len(widths) - 1)] for stage in range(arguments["n_stages"])]
        configuration.update(batch_size=2, data_identifier=f"{name}_{which}")
    (folder / f"{name}.json").write_text(json.dumps(plans))


def train(*, dataset: int, plans: str, configuration: str, fold: int | str, iterations: int, following: str | None = None) -> None:
    """One fold by nnUNetTrainer, for so many iterations with Adam; for a stage that follows also the masks it starts from."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    for which in filter(None, (configuration, following)):
        _preprocess(dataset, plans, which)
    os.environ[AUGMENTERS] = "0"  # augment in this process
    torch.manual_seed(0)
    trainer = get_trainer_from_args(str(dataset), configuration, fold, "nnUNetTrainer", plans, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, iterations, 1

    def optimizers() -> tuple[Any, Any]:
        adam = torch.optim.Adam(trainer.network.parameters(), 1e-2)
        return adam, PolyLRScheduler(adam, 1e-2, trainer.num_epochs)

    trainer.configure_optimizers = optimizers
    trainer.run_training()
    if following is not None:
        trainer.perform_actual_validation()


def predict(
    *, model: str, images: str, out: str, folds: list[int | str], mirror: bool, previous: str | None = None, single: bool = False
) -> None:
    """As nnUNetv2_predict_from_modelfolder does, in this process; tiles are added up in half precision, or in single."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if single:
        _add_up_in_single_precision()
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, folds, "checkpoint_final.pth")
    Path(out).mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(images, out, folder_with_segs_from_prev_stage=previous)


def _add_up_in_single_precision() -> None:
    """The one change: where the predictor says half, it gets float32; so do the weights of its tiles."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as predictor

    class Single:
        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    predictor.torch = Single()
    weights = predictor.compute_gaussian.__wrapped__
    weights.__defaults__ = tuple(torch.float32 if value is torch.float16 else value for value in weights.__defaults__)
    predictor.compute_gaussian.cache_clear()


def _preprocess(dataset: int, plans: str, configuration: str) -> None:
    """Case by case in this process: the reference's pool of processes would take longer than the work."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    raw, folder = _folder(RAW, dataset), _folder(PREPROCESSED, dataset)
    manager = PlansManager(str(folder / f"{plans}.json"))
    chosen = manager.get_configuration(configuration)
    out = folder / chosen.data_identifier
    if out.exists():
        return
    out.mkdir()
    described = json.loads((raw / "dataset.json").read_text())
    truths = folder / "gt_segmentations"
    truths.mkdir(exist_ok=True)
    for case, files in get_filenames_of_train_images_and_targets(str(raw), described).items():
        DefaultPreprocessor(verbose=False).run_case_save(str(out / case), files["images"], files["label"], manager, chosen, described)
        (truths / Path(files["label"]).name).write_bytes(Path(files["label"]).read_bytes())


def _folder(root: str, dataset: int) -> Path:
    """The dataset's folder below one of the reference's roots."""
    name = next(path.name for path in Path(os.environ[RAW]).iterdir() if path.name.startswith(f"Dataset{dataset:03d}_"))
    return Path(os.environ[root]) / name


JOBS = {"plan": plan, "train": train, "predict": predict}

if __name__ == "__main__":
    sys.exit(main(sys.argv))
