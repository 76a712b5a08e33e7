"""The queues' servers, by the gateway's own options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pika

from hpcrunner.doctor.finding import Finding, fault, not_tried, of_error, ok
from hpcrunner.errors import HpcrunnerError
from hpcrunner.queues.amqp import AMQP_FAILURES, broker, management_address, trouble
from hpcrunner.queues.aws import access_of_folder, default_access
from hpcrunner.queues.google import access_of_file
from hpcrunner.queues.listening import Server
from hpcrunner.queues.management import Management
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.pubsub import PubSubServer
from hpcrunner.queues.sources import QueueOptions, expanded, sources_from
from hpcrunner.queues.sqs import SqsServer
from hpcrunner.queues.watched import files_below, folders_in

_CHECK = "broker"


def judge_brokers(
    options: QueueOptions, environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Ask each server that the options name; takes no message."""
    try:
        for source in sources_from(options, environ):
            source.close()
        chosen = (
            QueueFilter.only(options.queues)
            if options.queues
            else QueueFilter(options.queue_match, options.queue_mismatch)
        )
    except HpcrunnerError as error:
        yield of_error(_CHECK, error)
        return
    found = [
        *_rabbitmq(options, chosen, environ),
        *_folder(options, environ),
        *_sqs(options, chosen, environ),
        *_pubsub(options, chosen, environ),
    ]
    yield from found
    if not found:
        yield not_tried(_CHECK, "none is given: say --amqp-url or another option of the gateway")


def _rabbitmq(
    options: QueueOptions, chosen: QueueFilter, environ: Mapping[str, str]
) -> Iterator[Finding]:
    url = expanded(options.amqp_url, "--amqp-url", environ)
    if not url:
        return
    there = broker(url, "hpcrunner doctor")
    try:
        connection = pika.BlockingConnection(there.parameters)
        for queue in options.queues:
            connection.channel().queue_declare(queue, passive=True)
        connection.close()
    except AMQP_FAILURES as error:
        why = trouble(error)
        remedy = why.remedy or "is the broker up, and does this host reach it?"
        yield fault(_CHECK, why.what, there.name, remedy)
        return
    if options.queues:
        yield ok(_CHECK, f"answers, and has the queues {', '.join(options.queues)}", there.name)
        return
    address = management_address(url, expanded(options.amqp_mgt_url, "--amqp-mgt-url", environ))
    management = Management(address, there.vhost)
    try:
        names = [name for name in management.bound_queues() if chosen.admits(name)]
    except HpcrunnerError as error:
        yield of_error(_CHECK, error)
        return
    yield ok(_CHECK, f"answers; {len(names)} queue(s) to serve now", there.name)


def _folder(options: QueueOptions, environ: Mapping[str, str]) -> Iterator[Finding]:
    text = expanded(options.queue_root, "--queue-root", environ)
    if not text:
        return
    root = Path(text).expanduser()
    if not root.is_dir():
        yield fault(_CHECK, "no such folder", str(root), "make it, or correct --queue-root")
    elif not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        yield fault(
            _CHECK, "may not be read and written", str(root), "messages are claimed by renaming"
        )
    else:
        yield ok(_CHECK, "is there", str(root))


def _sqs(
    options: QueueOptions, chosen: QueueFilter, environ: Mapping[str, str]
) -> Iterator[Finding]:
    def server(folder: str) -> Server:
        access = access_of_folder(Path(folder)) if folder else default_access(options.aws_region)
        return SqsServer(access, chosen, queues=options.queues, timeout=options.sqs_timeout)

    if options.sqs_certs:
        root = Path(expanded(options.sqs_certs, "--sqs-certs", environ)).expanduser()
        yield from _each(root, "--sqs-certs", lambda: list(folders_in(root)), server)
    if options.aws_region:
        yield _asked(lambda: server(""))


def _pubsub(
    options: QueueOptions, chosen: QueueFilter, environ: Mapping[str, str]
) -> Iterator[Finding]:
    def server(file: str) -> Server:
        access = access_of_file(Path(file), environ)
        return PubSubServer(access, chosen, timeout=options.pubsub_timeout)

    if options.google_certs:
        root = Path(expanded(options.google_certs, "--google-certs", environ)).expanduser()
        yield from _each(root, "--google-certs", lambda: list(files_below(root, ".json")), server)
    if options.google_application_credentials:
        option = "GOOGLE_APPLICATION_CREDENTIALS"
        file = expanded(options.google_application_credentials, option, environ)
        yield _asked(lambda: server(str(Path(file).expanduser())))


def _each(
    root: Path, option: str, names: Callable[[], list[str]], server: Callable[[str], Server]
) -> Iterator[Finding]:
    try:
        found = names()
    except OSError as error:
        yield fault(_CHECK, f"cannot be read ({error.strerror})", str(root), f"correct {option}")
        return
    if not found:
        yield fault(_CHECK, "holds no credentials", str(root), f"put some there, for {option}")
    for name in found:
        yield _asked(lambda name=name: server(name))  # type: ignore[misc]


def _asked(server: Callable[[], Server]) -> Finding:
    try:
        asked = server()
        try:
            return ok(_CHECK, f"answers; {len(asked.queues())} queue(s) to serve now", asked.name)
        finally:
            asked.close()
    except HpcrunnerError as error:
        return of_error(_CHECK, error)
