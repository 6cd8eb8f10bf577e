"""Prints aws_shapes.json, AWS Batch's own contract for the operations that Muster has.

Not a test and needed by none: botocore is no dependency. To follow a newer AWS Batch, run
`python tests/proto/extract_aws_shapes.py > tests/proto/aws_shapes.json` where botocore is
installed, and see what test_aws_shapes.py says.
"""

import importlib
import json
import sys
from typing import Any

Shape = Any  # botocore has no types

OPERATIONS = (
    "RegisterJobDefinition",
    "DeregisterJobDefinition",
    "DescribeJobDefinitions",
    "SubmitJob",
    "DescribeJobs",
    "ListJobs",
    "CancelJob",
    "TerminateJob",
    "CreateJobQueue",
    "UpdateJobQueue",
    "DeleteJobQueue",
    "DescribeJobQueues",
)


def kind(shape: Shape) -> str:
    """`string`, `integer`, ..., a structure's or an enum's name, `[element]` or `{value}`."""
    if shape.type_name == "list":
        return f"[{kind(shape.member)}]"
    if shape.type_name == "map":
        return f"{{{kind(shape.value)}}}"
    named = shape.type_name == "structure" or getattr(shape, "enum", None)
    return str(shape.name if named else shape.type_name)


def collect(
    shape: Shape, structures: dict[str, dict[str, str]], enums: dict[str, list[str]]
) -> None:
    """Adds the shape and all that it reaches."""
    if shape.type_name == "list":
        collect(shape.member, structures, enums)
    elif shape.type_name == "map":
        collect(shape.value, structures, enums)
    elif shape.type_name == "structure" and shape.name not in structures:
        structures[shape.name] = {name: kind(member) for name, member in shape.members.items()}
        for member in shape.members.values():
            collect(member, structures, enums)
    elif getattr(shape, "enum", None):
        enums[shape.name] = list(shape.enum)


def main() -> None:
    botocore = importlib.import_module("botocore")
    session = importlib.import_module("botocore.session")
    model = session.get_session().get_service_model("batch")
    structures: dict[str, dict[str, str]] = {}
    enums: dict[str, list[str]] = {}
    operations: dict[str, list[str]] = {}
    for name in OPERATIONS:
        operation = model.operation_model(name)
        operations[name] = [operation.input_shape.name, operation.output_shape.name]
        for shape in (operation.input_shape, operation.output_shape):
            collect(shape, structures, enums)
    sections: dict[str, dict[str, Any]] = {
        "operations": operations,
        "structures": structures,
        "enums": enums,
    }
    source = f"botocore {botocore.__version__}, batch {model.api_version}"
    lines = [f'{{\n"source": {json.dumps(source)}']
    for title, entries in sections.items():
        rows = ",\n".join(f'  "{name}": {json.dumps(entries[name])}' for name in sorted(entries))
        lines.append(f'"{title}": {{\n{rows}\n}}')
    sys.stdout.write(",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
