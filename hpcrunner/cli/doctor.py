"""``hpcrunner doctor``: what is missing here, on the cluster and on its nodes."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from hpcrunner.cli.common import (
    DEFAULT_SITE,
    AsJson,
    SiteName,
    SpoolPath,
    chosen_site,
    print_json,
)
from hpcrunner.cli.options import option
from hpcrunner.cli.queueoptions import (
    AmqpMgtUrl,
    AmqpUrl,
    AwsRegion,
    GoogleApplicationCredentials,
    GoogleCerts,
    PubsubTimeout,
    Queue,
    QueueMatch,
    QueueMismatch,
    QueueRoot,
    SqsCerts,
    SqsTimeout,
    queue_options,
)
from hpcrunner.cli.storeoptions import S3Ca, S3Cert, S3Key, with_stores
from hpcrunner.cli.table import console
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.examine import Wishes, examine
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.queues.matching import DEFAULT_MATCH
from hpcrunner.request.units import parse_duration

_FAULTS = 1
_COLOURS = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAULT: "bold red",
    Verdict.NOT_TRIED: "dim",
}


def doctor(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    store: Annotated[
        list[str] | None,
        typer.Option(
            "--store",
            help="A store of the requests to ask, from here and from a node: "
            "s3:https://host/bucket, gs://bucket, https://…, file:///folder. S3 keys come from the "
            "environment. May be repeated.",
            metavar="ADDRESS",
        ),
    ] = None,
    image: Annotated[
        str, typer.Option("--image", help="A container image on the nodes to run.", metavar="FILE")
    ] = "",
    wait: Annotated[
        str, typer.Option("--wait", help="How long a probe job may wait in the queue.")
    ] = "120s",
    no_job: Annotated[
        bool, typer.Option("--no-job", help="Send no probe job: look only from here.")
    ] = False,
    amqp_url: AmqpUrl = "",
    amqp_mgt_url: AmqpMgtUrl = "",
    queue: Queue = None,
    queue_root: QueueRoot = "",
    queue_match: QueueMatch = DEFAULT_MATCH,
    queue_mismatch: QueueMismatch = "",
    sqs_certs: SqsCerts = "",
    aws_region: AwsRegion = "",
    sqs_timeout: SqsTimeout = "15s",
    google_certs: GoogleCerts = "",
    google_application_credentials: GoogleApplicationCredentials = "",
    pubsub_timeout: PubsubTimeout = "5s",
    s3_ca: S3Ca = "",
    s3_cert: S3Cert = "",
    s3_key: S3Key = "",
    debug: Annotated[bool, option("--debug", "Show the log, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is missing on this login node, its cluster and its nodes, and how to mend it.

    Looks as yourself, changes nothing, and sends one or two small jobs that are gone within a
    minute. Ends with 1 where there is a fault.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if debug else logging.CRITICAL)  # some loggers have a level, too
    logging.basicConfig(level=handler.level, handlers=[handler], format=logging.BASIC_FORMAT)
    chosen = with_stores(chosen_site(site, spool), s3_ca=s3_ca, s3_cert=s3_cert, s3_key=s3_key)
    wishes = Wishes(
        queues=queue_options(
            "doctor",
            amqp_url=amqp_url,
            amqp_mgt_url=amqp_mgt_url,
            queue=queue,
            queue_root=queue_root,
            queue_match=queue_match,
            queue_mismatch=queue_mismatch,
            sqs_certs=sqs_certs,
            aws_region=aws_region,
            sqs_timeout=sqs_timeout,
            google_certs=google_certs,
            google_application_credentials=google_application_credentials,
            pubsub_timeout=pubsub_timeout,
        ),
        stores=tuple(store or ()),
        image=image,
        wait=parse_duration(wait),
        job=not no_job,
    )
    for ending in (signal.SIGTERM, signal.SIGHUP):  # the probe jobs go with whoever sent them
        signal.signal(ending, signal.default_int_handler)
    with _waiting() as status:
        found = examine(chosen, wishes, Edge(), lambda text: status.update(f"{text} …"))
        findings = list(found) if as_json else list(_shown(found))
    if as_json:
        print_json({"site": chosen.name, "findings": [_as_json(f) for f in findings]})
    else:
        console.print(Text(_summary(findings)))
    if any(finding.verdict is Verdict.FAULT for finding in findings):
        raise typer.Exit(_FAULTS)


@contextmanager
def _waiting() -> Iterator[Status]:
    """What is waited for, on stderr, where somebody looks."""
    with Status("looking …", console=Console(stderr=True)) as status:
        yield status


def _shown(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        line = Text(f"{finding.verdict.value:<9} ", style=_COLOURS[finding.verdict])
        line.append(f"{finding.check:<17} ", style="dim")
        line.append(finding.line(), style="")
        console.print(line, soft_wrap=True)
        yield finding


def _summary(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    told = [
        f"{counts[verdict]} {name}{'' if counts[verdict] == 1 else plural}"
        for verdict, name, plural in (
            (Verdict.FAULT, "fault", "s"),
            (Verdict.WARNING, "warning", "s"),
            (Verdict.NOT_TRIED, "not tried", ""),
            (Verdict.OK, "ok", ""),
        )
    ]
    return ", ".join(told)


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "line": finding.line(),
        **finding.parts(),
    }
