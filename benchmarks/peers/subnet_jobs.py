"""Jobs that are a subnet of a bundled model."""

from dataclasses import replace

from peers.jobs import Job
from superserve.model_folder import ModelFolder
from superserve.serving.byte_strings import to_cells


def subnet_job(model: str, subnet: str, text: str = "") -> Job:
    """A subnet of a model with one input and one output; ``text`` is what is sent to a model that takes texts."""
    config = ModelFolder.resolve(model).config
    (tensor,), (output,) = config.inputs, config.outputs
    job = Job(
        name=f"{model}:{subnet}:{text}",
        title=f"{model}, subnet {subnet}",
        model=model,
        input_name=tensor.name,
        row_shape=tensor.row_shape,
        max_rows=config.max_batch_size,
        subnet=subnet,
        values=output.row_shape[0],
        text=text.encode(),
    )
    if not text:
        return job
    cell = bytes(to_cells(job.wire(), 1, tensor))
    return replace(job, row_shape=(*tensor.row_shape, len(cell)), cell=cell)
