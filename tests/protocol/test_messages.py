import subprocess
import sys
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from superserve import protocol as package
from superserve.protocol.messages import DESCRIPTORS_FILE, INFERENCE, POOL

FOLDER = Path(package.__file__).parent


def test_the_descriptors_are_made_from_the_protocol_files(tmp_path: Path) -> None:
    """What ``make protos`` would write is what is there: same files, same fields."""
    names = sorted(path.name for path in (FOLDER / "protos").glob("*.proto"))
    assert names == ["health.proto", "inference.proto", "reflection.proto"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER / 'protos'}", "--include_imports"]
    order = ["inference.proto", "health.proto", "reflection.proto"]
    subprocess.run([*command, f"--descriptor_set_out={tmp_path / 'made'}", *order], check=True)
    assert (tmp_path / "made").read_bytes() == (FOLDER / DESCRIPTORS_FILE).read_bytes()


MESSAGES = sorted(POOL.FindFileByName("inference.proto").message_types_by_name)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_tritons(name: str) -> None:
    """Every field that we have, Triton has under the same number and type: its clients read ours, and we theirs."""
    ours = POOL.FindMessageTypeByName(f"inference.{name}")
    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    theirs = next(file.message_types_by_name[name] for file in files if name in file.message_types_by_name)
    compare(ours, theirs)


def compare(ours: object, theirs: object) -> None:
    """Field by field, nested messages too."""
    known = {field.number: field for field in theirs.fields}  # type: ignore[attr-defined]
    for field in ours.fields:  # type: ignore[attr-defined]
        other = known[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        if field.enum_type is not None:
            assert dict(field.enum_type.values_by_name).keys() <= dict(other.enum_type.values_by_name).keys()
    nested = {message.name: message for message in theirs.nested_types}  # type: ignore[attr-defined]
    for message in ours.nested_types:  # type: ignore[attr-defined]
        compare(message, nested[message.name])


def test_methods_are_tritons() -> None:
    """The same names, requests and responses."""
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in POOL.FindServiceByName(INFERENCE).methods:
        other = theirs[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )
