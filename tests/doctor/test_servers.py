"""Queues and stores by the options that name them; the tests on Slurm ask a real RabbitMQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dev.queue_servers import free_port
from hpcrunner.doctor.brokers import judge_brokers
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.doctor.stores import judge_hosts, judge_stores, location
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.sites.site import Site


def asked(environ: dict[str, str] | None = None, **options: Any) -> list[Finding]:
    return list(judge_brokers(QueueOptions(gateway_id="doctor", **options), environ or {}))


def one(findings: list[Finding], verdict: Verdict) -> str:
    assert [f.verdict for f in findings] == [verdict], findings
    return findings[0].line()


def test_without_options_no_broker_is_looked_for() -> None:
    assert "none is given" in one(asked(), Verdict.NOT_TRIED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"amqp_url": "amqp://me:hunter2@host:x/"}, "not a usable amqp:// or amqps:// URL"),
        ({"amqp_url": "amqp://me:$PASSWORD@host/"}, "the environment has no PASSWORD"),
        ({"queue_root": "/nowhere/queues"}, "/nowhere/queues: no such folder"),
        ({"sqs_certs": "/nowhere/certs"}, "cannot be read (No such file or directory)"),
        ({"queue_match": "(", "queue_root": "/tmp"}, "--queue-match"),
    ],
)
def test_options_that_lead_nowhere_are_told(options: dict[str, str], words: str) -> None:
    line = one(asked(**options), Verdict.FAULT)
    assert words in line and "hunter2" not in line


def test_a_broker_that_does_not_listen_is_told() -> None:
    url = f"amqp://me:hunter2@127.0.0.1:{free_port()}/"
    line = one(asked(amqp_url=url), Verdict.FAULT)
    assert "Connection refused; is the broker up" in line and "hunter2" not in line


def test_a_folder_of_queues_is_seen(tmp_path: Path) -> None:
    assert "is there" in one(asked({"HERE": str(tmp_path)}, queue_root="$HERE"), Verdict.OK)


def test_each_folder_of_credentials_is_asked_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    assert "holds no credentials" in one(asked(sqs_certs=str(tmp_path)), Verdict.FAULT)
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").write_text("[default]\nregion=us-west-2\n")
        (tmp_path / name / "config").chmod(0o600)
    keys = tmp_path / "whole" / "credentials"
    keys.write_text("[default]\naws_access_key_id=A\naws_secret_access_key=hunter2\n")
    keys.chmod(0o600)
    half, whole = asked(sqs_certs=str(tmp_path), sqs_timeout=2.0)
    assert (half.verdict, whole.verdict) == (Verdict.FAULT, Verdict.FAULT)
    assert "takes exactly two" in half.line()
    assert "aws_whole" in whole.line() and "hunter2" not in whole.line()


def test_a_stores_address_means_what_an_artifacts_does(tmp_path: Path) -> None:
    site = Site.model_validate({"allow_env_secrets": False})
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "OTHER": "x"}
    found = location("s3://store:9000/bucket/", site, keys)
    assert (found.endpoint, found.bucket) == ("http://store:9000", "bucket")
    assert found.credentials is not None and found.credentials.secret_access_key == "S"
    assert location("s3://store:9000/bucket", site, {}).credentials is None
    secure = location("s3:https://store:9000/bucket", site, keys)
    assert (secure.endpoint, secure.bucket) == ("https://store:9000", "bucket")
    assert secure.credentials == found.credentials
    assert location("https://web/x.tar", site, {}).endpoint == "https://web/x.tar"
    assert location(f"file://{tmp_path}", site, {}).key.startswith(f"{tmp_path}/")
    with pytest.raises(Exception, match="no store is known"):
        location("ftp://x/y", site, {})


def test_the_gateways_own_store_is_asked(tmp_path: Path) -> None:
    site = Site.model_validate({"metadata_store": str(tmp_path)})
    (found,) = judge_stores(site, [])
    assert (found.verdict, found.where) == (Verdict.OK, f"file://{tmp_path}")
    assert "none is given" in one(judge_stores(Site(), []), Verdict.NOT_TRIED)


def test_a_store_that_the_gateway_may_not_contact_is_a_fault_and_is_not_contacted() -> None:
    store = f"s3:http://127.0.0.1:{free_port()}/bucket"
    usual = Site.model_validate({"staging": "gateway"})
    line = one(judge_stores(usual, [location(store, usual, {})]), Verdict.FAULT)
    assert "the site does not let messages have the gateway contact 127.0.0.1" in line
    assert "have 127.0.0.1 added" in line and "no connection" not in line
    assert "the internet alone" in one(judge_hosts(usual), Verdict.OK)

    names = Site.model_validate({"staging": "gateway", "gateway_hosts": ["127.0.0.1", "public"]})
    assert "127.0.0.1/32, public" in one(judge_hosts(names), Verdict.OK)
    for site in (names, Site()):
        found = judge_stores(site, [location(store, site, {})])
        assert "no connection to 127.0.0.1" in one(found, Verdict.FAULT)
    assert judge_hosts(Site()) == []
