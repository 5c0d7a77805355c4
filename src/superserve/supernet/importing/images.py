"""``config.json`` of image classifiers trained on ImageNet."""

from typing import Final

import msgspec

from superserve.errors import ConfigError
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.supernet.importing.family import Serving, Task
from superserve.supernet.preprocess import ImagePreprocessing

#: Of ImageNet's training images, per channel, of pixels in 0..1: what the public networks were trained with.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

#: Height and width of images that ImageNet's networks are measured with, where they take any.
IMAGENET_SIZE: Final = 224


def image_config(family: str, architecture: msgspec.Struct, classes: int, task: Task, serving: Serving) -> ModelConfig:
    """The configuration of an image classifier as `Serving` wants it.

    Raises:
        ConfigError: for another number of labels than classes, or an unknown kind of pixels.
    """
    size = serving.image_size or IMAGENET_SIZE
    kinds = {
        "uint8": ("UINT8", (-1, size, size, 3), "HWC", 1 / 255),
        "float32": ("FP32", (-1, 3, size, size), "CHW", 1),
    }
    if serving.pixels not in kinds:
        raise ConfigError(f"pixels {serving.pixels!r} is not one of {', '.join(kinds)}")
    datatype, shape, layout, scale = kinds[serving.pixels]
    preprocessing = msgspec.convert(
        {"type": "image", "layout": layout, "scale": scale, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        ImagePreprocessing,
    )
    return ModelConfig(
        format=FORMAT,
        name=serving.name,
        family=family,
        architecture=msgspec.to_builtins(architecture),
        task="image-classification",
        dataset=task.name or ("ImageNet (ILSVRC 2012)" if classes == 1000 else f"{classes} classes of images"),
        labels=class_labels(serving.labels or task.labels, classes),
        inputs=(TensorSpec("image", datatype, shape),),
        outputs=(TensorSpec("logits", "FP32", (-1, classes)),),
        preprocessing=msgspec.to_builtins(preprocessing),
    )


def class_labels(given: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Names of the classes; their numbers if none are given.

    Raises:
        ConfigError: if there are more or fewer than classes.
    """
    if given and len(given) != classes:
        raise ConfigError(f"labels: {len(given)} given for the {classes} classes of the checkpoint")
    return given or tuple(str(number) for number in range(classes))
