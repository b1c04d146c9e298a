"""resnet-infer: a ResNet from checkpoint to measured deployment, tested as its paper tested it.

    import resnet_infer as ri

    with ri.load("resnet50.tv2_in1k") as model:
        for image in ri.predict(model, "photos/"):
            print(image.path, image.best.label, image.best.prob)

Names are imported when they are first used, so `import resnet_infer` itself imports no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_infer import errors, predictions
    from resnet_infer.api.evaluating import compare, evaluate, predict, score
    from resnet_infer.api.exporting import Gate, export
    from resnet_infer.api.models import load
    from resnet_infer.api.protocols import Test, multi_scale, single_crop, ten_crop
    from resnet_infer.backends.load import Model
    from resnet_infer.errors import ResnetInferError
    from resnet_infer.evaluation.comparison_rows import Comparison
    from resnet_infer.evaluation.rows import ClassProbability, EvalRow, Prediction
    from resnet_infer.pipeline.loading import Loading
    from resnet_infer.spec.manifest import Manifest

__version__ = "0.1.0"

_HOMES = {
    "ClassProbability": "evaluation.rows",
    "Comparison": "evaluation.comparison_rows",
    "EvalRow": "evaluation.rows",
    "Gate": "api.exporting",
    "Loading": "pipeline.loading",
    "Manifest": "spec.manifest",
    "Model": "backends.load",
    "Prediction": "evaluation.rows",
    "ResnetInferError": "errors",
    "Test": "api.protocols",
    "compare": "api.evaluating",
    "evaluate": "api.evaluating",
    "export": "api.exporting",
    "load": "api.models",
    "multi_scale": "api.protocols",
    "predict": "api.evaluating",
    "score": "api.evaluating",
    "single_crop": "api.protocols",
    "ten_crop": "api.protocols",
}
_MODULES = ("errors", "predictions")

__all__ = [
    "ClassProbability",
    "Comparison",
    "EvalRow",
    "Gate",
    "Loading",
    "Manifest",
    "Model",
    "Prediction",
    "ResnetInferError",
    "Test",
    "__version__",
    "compare",
    "errors",
    "evaluate",
    "export",
    "load",
    "multi_scale",
    "predict",
    "predictions",
    "score",
    "single_crop",
    "ten_crop",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
