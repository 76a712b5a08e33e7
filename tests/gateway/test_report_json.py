"""Reports as proto3 JSON: byte for byte, and as protobuf's own parser reads them."""

from __future__ import annotations

from typing import Any

import pytest

from hpcrunner.gateway.reports.report import (
    LogEntry,
    Progress,
    Report,
    Severity,
    TaskState,
    timestamp,
)

AT = 1_624_770_769.25
TIME = '"time":"2021-06-27T05:12:49.250Z"'
START = Report(AT, "n1", LogEntry(Severity.INFO, "start"), "exp_1", "n1-1lxN69")
EXACT = {
    "scanning": (
        Report(AT, "login", LogEntry(Severity.DEBUG, "scanning queue", {"queue_name": "rmq_q"})),
        f'{{{TIME},"executorId":"login","logging":{{{TIME},"severity":"Debug",'
        '"message":"scanning queue","fields":{"queue_name":"rmq_q"}}}',
    ),
    "start": (
        START,
        f'{{{TIME},"experimentId":"exp_1","uniqueId":"n1-1lxN69","executorId":"n1",'
        f'"logging":{{{TIME},"severity":"Info","message":"start"}}}}',
    ),
    "an empty line": (
        Report(AT, "n1", LogEntry(Severity.INFO, ""), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1",'
        f'"logging":{{{TIME},"severity":"Info","message":""}}}}',
    ),
    "Default and Prestart are zero": (
        Report(AT, "n1", LogEntry(Severity.DEFAULT, "x"), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1",'
        f'"logging":{{{TIME},"message":"x"}}}}',
    ),
    "Prestart": (
        Report(AT, "n1", Progress(TaskState.PRESTART), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1","progress":{{{TIME}}}}}',
    ),
    "metadata": (
        Report(AT, "n1", Progress(TaskState.STARTED, json='{"a": "ü"}'), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1",'
        f'"progress":{{{TIME},"json":"{{\\"a\\": \\"ü\\"}}","state":"Started"}}}}',
    ),
    "Failed": (
        Report(AT, "n1", Progress(TaskState.FAILED, error=("ended with 3", 3)), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1",'
        f'"progress":{{{TIME},"state":"Failed","error":{{"msg":"ended with 3","code":3}}}}}}',
    ),
    "a code of zero is left out": (
        Report(AT, "n1", Progress(TaskState.FAILED, error=("why", 0)), "e", "u"),
        f'{{{TIME},"experimentId":"e","uniqueId":"u","executorId":"n1",'
        f'"progress":{{{TIME},"state":"Failed","error":{{"msg":"why"}}}}}}',
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_a_report_is_written_exactly_so(case: str) -> None:
    report, text = EXACT[case]
    assert report.to_json() == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (1.0, "1970-01-01T00:00:01Z"),
        (0.9996, "1970-01-01T00:00:01Z"),
        (1_546_495_043.007, "2019-01-03T05:57:23.007Z"),
        (float("nan"), "1970-01-01T00:00:00Z"),
        (float("inf"), "1970-01-01T00:00:00Z"),
        (-5.0, "1970-01-01T00:00:00Z"),
        (1e300, "1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_rfc_3339_in_utc(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


@pytest.fixture(scope="module")
def report_type() -> Any:
    """``dev.studio_go_runner.reports.Report``, built from its published field numbers."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import (
        any_pb2,
        descriptor_pb2,
        descriptor_pool,
        message_factory,
        timestamp_pb2,
        wrappers_pb2,
    )

    kinds = descriptor_pb2.FieldDescriptorProto
    package = "dev.studio_go_runner.reports"
    file = descriptor_pb2.FileDescriptorProto(
        name="reports.proto",
        package=package,
        syntax="proto3",
        dependency=[
            "google/protobuf/any.proto",
            "google/protobuf/timestamp.proto",
            "google/protobuf/wrappers.proto",
        ],
    )

    def enum(name: str, **values: int) -> None:
        made = file.enum_type.add(name=name)
        for word, number in values.items():
            made.value.add(name=word, number=number)

    def message(name: str, *fields: tuple[int, str, str]) -> Any:
        made = file.message_type.add(name=name)
        for number, field, kind in fields:
            added = made.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind == "int32":
                added.type = kinds.TYPE_INT32
            elif kind in ("LogSeverity", "TaskState"):
                added.type, added.type_name = kinds.TYPE_ENUM, f".{package}.{kind}"
            else:
                full = kind if kind.startswith(".") else f".{package}.{kind}"
                added.type, added.type_name = kinds.TYPE_MESSAGE, full
        return made

    string, time = ".google.protobuf.StringValue", ".google.protobuf.Timestamp"
    enum(
        "LogSeverity", Default=0, Trace=100, Debug=200, Info=300, Warning=400, Error=500, Fatal=600
    )
    enum("TaskState", Prestart=0, Started=1, Stopping=2, Failed=20, Success=21)
    entry = message(
        "LogEntry", (1, "time", time), (2, "severity", "LogSeverity"), (3, "message", string)
    )
    pair = entry.nested_type.add(name="FieldsEntry")
    pair.options.map_entry = True
    for number, name in ((1, "key"), (2, "value")):
        pair.field.add(name=name, number=number, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="fields",
        number=4,
        label=kinds.LABEL_REPEATED,
        type=kinds.TYPE_MESSAGE,
        type_name=f".{package}.LogEntry.FieldsEntry",
    )
    message("Failure", (20, "msg", string), (21, "code", "int32"))
    message(
        "Progress",
        (1, "time", time),
        (2, "json", string),
        (3, "state", "TaskState"),
        (4, "error", "Failure"),
    )
    report = message(
        "Report",
        (1, "time", time),
        (2, "experiment_id", string),
        (3, "unique_id", string),
        (4, "executor_id", string),
        (10, "proto_any", ".google.protobuf.Any"),
        (11, "text", string),
        (12, "logging", "LogEntry"),
        (13, "progress", "Progress"),
    )
    report.oneof_decl.add(name="payload")
    for field in report.field[4:]:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Report"))


@pytest.mark.parametrize("case", EXACT)
def test_protobuf_reads_a_report_and_would_write_it_just_so(case: str, report_type: Any) -> None:
    import json

    from google.protobuf import json_format

    report, text = EXACT[case]
    parsed = json_format.Parse(text, report_type())
    assert json.loads(json_format.MessageToJson(parsed)) == json.loads(report.to_json())


@pytest.mark.parametrize("text", ["\ud800", "\x00\x1b[31m", '"\\\n', "\u2028", "x" * 20000])
def test_protobuf_reads_whatever_a_key_or_a_line_holds(text: str, report_type: Any) -> None:
    from google.protobuf import json_format

    report = Report(AT, "n1", LogEntry(Severity.INFO, text, {text: text}), text, "u")
    parsed = json_format.Parse(report.to_json(), report_type())
    assert parsed.logging.message.value == text.replace("\ud800", "?")


def test_a_code_is_what_32_bits_hold(report_type: Any) -> None:
    from google.protobuf import json_format

    for code in (2**40, -(2**40)):
        report = Report(AT, "n1", Progress(TaskState.FAILED, error=("x", code)))
        json_format.Parse(report.to_json(), report_type())
