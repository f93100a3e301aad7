"""Trained networks slid over images of any size, and their votes carried back to the stored grid.

`predict.predict_prepared` predicts one prepared case, `ensemble.predict_case` one stored image.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autounet.inference.predict import predict_prepared
    from autounet.inference.settings import InferenceSettings, Member, Prediction

__all__ = ["InferenceSettings", "Member", "Prediction", "predict_prepared"]


def __getattr__(name: str) -> Any:  # torch is imported when it is needed, not when a neighbour is
    if name == "predict_prepared":
        from autounet.inference.predict import predict_prepared

        return predict_prepared
    if name in __all__:
        from autounet.inference import settings

        return getattr(settings, name)
    raise AttributeError(name)
