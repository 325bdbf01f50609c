"""The backbone as an ONNX graph, checked against the network. onnx, onnxscript and onnxruntime are optional."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from headstart.errors import UserError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of features, absolute, or relative to the largest where that is above 1


def missing_packages() -> list[str]:
    """Return the packages that are needed here and not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def write_graph(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network (B, 3, S, S) -> (B, D) of any B as one ONNX file: input `images`, output `features`.

    The same bytes for the same network: what the exporter notes about this machine's source files is left out.
    """
    import onnx

    batch = torch.export.Dim("batch")
    # told of torch's own deprecations, and of every pass
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: batch},),
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _forget_origin(model: "onnx.ModelProto") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Remove stack traces and names of source files."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, *model.graph.input):
        del part.metadata_props[:]
        part.doc_string = ""
    for output in model.graph.output:
        del output.metadata_props[:]


def check_graph(path: Path, network: nn.Module, x_NCHW: Tensor) -> float:
    """Return the largest difference between the graph's and the network's features; UserError above TOLERANCE."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(None, {"images": x_NCHW.numpy()})[0])
    with torch.no_grad():
        ours = network(x_NCHW)
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, ours.abs().max().item()):
        raise UserError(f"{path.name}: onnxruntime's features differ from torch's by {difference:g}: not exported")
    return difference
