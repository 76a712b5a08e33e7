from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.redact import MASK, redact_document, redact_text

HUSH = "hush0hush"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{HUSH * 8}\n-----END RSA PRIVATE KEY-----"
SLACK = "https://hooks.slack.com/"

Captured = Callable[[str], bytes]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        # The two patterns of the Go runner.
        (
            f"pip install git+https://{HUSH}@github.com/o/r",
            "pip install git+https://****@github.com/o/r",
        ),
        (f"git://{HUSH}@github.com/o/r", "git://****@github.com/o/r"),
        (f"git://{HUSH}/x@github.com/o/r", "git://****@github.com/o/r"),
        (f"export AWS_SECRET_ACCESS_KEY={HUSH} x", "export AWS_SECRET_ACCESS_KEY=****"),
        (f"MY_TOKENS={HUSH}", "MY_TOKENS=****"),
        (f"PASSWD={HUSH}\nnext\n", "PASSWD=****\nnext\n"),
        # URLs.
        (f"amqp://user:{HUSH}@host:5672/%2f", "amqp://****@host:5672/%2f"),
        (f"see https://{HUSH}@h/x, ok", "see https://****@h/x, ok"),
        (f"http://u:{HUSH}@{HUSH}@h", "http://****@h"),
        (f"GET https://h/x?token={HUSH}&y=1", "GET https://h/x?token=****"),
        (f"https://b/k?X-Amz-Signature={HUSH}", "https://b/k?X-Amz-Signature=****"),
        # Names in other cases, in YAML and JSON.
        (f"aws_secret_access_key = {HUSH}", "aws_secret_access_key =****"),
        (f"password: {HUSH}", "password:****"),
        (f'{{"secret_access_key": "{HUSH}"}}', '{"secret_access_key":****'),
        (f"{{'accessKey': '{HUSH}'}}", "{'accessKey':****"),
        (f'\\"api_key\\": \\"{HUSH}\\"', '\\"api_key\\":****'),
        (f"Authorization: Bearer {HUSH}", "Authorization:****"),
        (f"train.py --token={HUSH}", "train.py --token=****"),
        (f"train.py --hub-key={HUSH}", "train.py --hub-key=****"),
        # Values that show what they are.
        (f"{PEM}\nmore", "****\nmore"),
        (f"key is {PEM[:60]}", "key is ****"),
        (PEM.replace("\n", "\\n").replace("RSA ", "OPENSSH "), "****"),
        ("signed by AKIAIOSFODNN7EXAMPLE.", "signed by ****."),
        (f"cloning with ghp_{'a1' * 18}", "cloning with ****"),
        (f"(hf_{'aB' * 17})", "(****)"),
        (f"xoxb-1234567890-{HUSH}", "****"),
        (f"eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.{HUSH} ok", "**** ok"),
        (f"post https://hooks.slack.com/services/T0/B0/{HUSH} now", f"post {SLACK}**** now"),
        (f"curl -H 'Bearer {HUSH * 2}='", "curl -H 'Bearer ****'"),
    ],
)
def test_a_secret_in_text_is_masked(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch: 3 loss=0.25 accuracy: 0.9",
        "token: 5 loss: 0.2",
        "max_tokens=512 key=lambda",
        "git+https://github.com/o/r@main",
        "s3://host:9000/bucket/key",
        "a@b.example",
        "tokenizers==0.1 keyring==2",
        "line\r\nline\x0bline",
        "the bearer of bad news, Bearer bonds",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "AKIAS and hf_hub, eyJ.eyJ, an xox-word, ghp_short",
        "exit code 1; last line: ValueError: shapes (3,) and (4,)",
        "queue rmq_kafka: 3 message(s) taken and journalled",
    ],
)
def test_ordinary_output_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "message.signature: does not verify; sign it with the queue's key",
        "spool /s: is open to others (mode 0750); it will hold credentials: chmod 700 /s",
        "artifacts.a.credentials.aws.secret_access_key: missing; send it",
    ],
)
def test_words_behind_a_name_stay_in_our_own_prose(text: str) -> None:
    assert redact_text(text, prose=True) == text
    assert MASK in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        f"password: {HUSH}",
        f"password: {HUSH} for user x",
        f"login failed, secret: {HUSH}, again",
        f'"password": "{HUSH} and more"',
        f"Authorization: Basic {HUSH} x",
        f"Authorization: Bearer {HUSH} x",
        f"API_KEY={HUSH} and more",
        f"message.signature: is bad; api_token={HUSH} PASSWORD={HUSH}",
        f"x.credentials: are bad; password: {HUSH}",
        f"is at amqp://u:{HUSH}@h",
    ],
)
def test_a_value_behind_a_name_does_not_stay_in_prose_either(text: str) -> None:
    assert HUSH not in redact_text(text, prose=True)


@pytest.mark.parametrize(
    "piece",
    [
        *("git://", "git+https://", "://", "a", "_", "KEY", "-pass_", "=", ":", "@", " \"'"),
        *("?token", "eyJ", "eyJa.", "ghp_", "xoxb-", "AKIA", "Bearer ", "//hooks.slack.com/"),
        *("-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
        *("-----END PRIVATE KEY-----\n", "abc\n", "-----END PRIVATE KEY-----\nabc\n"),
    ],
)
def test_redaction_takes_linear_time_on_hostile_text(piece: str) -> None:
    # A quadratic scan of a million characters would run into the suite's own time limit.
    redact_text("KEY" + piece * (1_000_000 // len(piece)) + "-x=")


def test_a_requests_credentials_are_masked_and_its_keys_kept(captured: Captured) -> None:
    message = json.loads(captured("run_0.0.49"))
    redacted = redact_document(message)
    text = json.dumps(redacted)
    assert "demo-secret-key" not in text
    assert "demo-access-key" not in text
    assert "guest:guest" not in text
    assert redacted["experiment"]["key"] == "demo_run_1795222872"
    sent, shown = message["experiment"]["artifacts"], redacted["experiment"]["artifacts"]
    assert {tag: a["key"] for tag, a in shown.items()} == {tag: a["key"] for tag, a in sent.items()}
    assert shown["output"]["credentials"] == MASK
    assert redacted["config"]["env"] == {"DEMO_FLAG": "from-config-env"}
    assert redacted["config"]["cloud"]["queue"]["rmq"] == "amqp://****@127.0.0.1:35672/%2f"


def test_a_document_is_not_changed_in_place(captured: Captured) -> None:
    message = json.loads(captured("run_0.0.49"))
    before = copy.deepcopy(message)
    redact_document(message)
    assert message == before


def test_a_document_without_secrets_stays_as_it_is() -> None:
    document = {"key": "k", "n": [1, 2.5, None, True], "authentication": "none", "": {}}
    assert redact_document(document) == document


def test_empty_and_null_credentials_are_seen_to_be_empty() -> None:
    document = {"password": "", "token": None}
    assert redact_document(document) == document


def test_an_artifact_may_be_called_like_a_secret() -> None:
    document = {"artifacts": {"tokenizer": {"key": "k", "credentials": {"aws": HUSH}}}}
    assert redact_document(document) == {
        "artifacts": {"tokenizer": {"key": "k", "credentials": MASK}}
    }


@pytest.mark.parametrize(
    "document",
    [
        {"env": {"key": HUSH}},
        {"env": {"AWS_ACCESS_KEY_ID": HUSH, "DB_PASS": [HUSH]}},
        {"args": ["--password", HUSH]},
        {"args": ["--hf-token", HUSH, "x"]},
        {"args": [f"PASSWORD={HUSH}\n{HUSH}"]},
        {"environment": [["AWS_SECRET_ACCESS_KEY", HUSH]]},
        {"environment": [("MY_TOKEN", HUSH)]},
        {"apiKey": 12345, "x": f"amqp://u:{HUSH}@h"},
        {"document": json.dumps({"aws": {"secret_key": HUSH}})},
        {"document": json.dumps(json.dumps({"password": HUSH}))},
        {"note": f"see\n{PEM}"},
        {"note": json.dumps(PEM)},
    ],
)
def test_a_secret_in_a_document_is_masked(document: Any) -> None:
    text = json.dumps(redact_document(document))
    assert HUSH not in text
    assert "12345" not in text


def test_a_document_of_any_depth_is_redacted() -> None:
    document: Any = HUSH
    for _ in range(100_000):
        document = [document]
    assert HUSH not in json.dumps(redact_document(document))


SECRET_NAMES = st.sampled_from(
    [
        *("secret", "password", "passwd", "token", "credentials", "secret_access_key"),
        *("aws_secret_key", "access_password", "session_token", "apiKey", "API_KEY"),
    ]
)
PLAIN_NAMES = st.text("abcdefg", min_size=1, max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.text("xyz .,'\"\n", max_size=8)
SECRETS = st.just(HUSH) | st.lists(st.just(HUSH)) | st.dictionaries(PLAIN_NAMES, st.just(HUSH))
SECRET_TEXTS = st.builds(
    "{}{}".format,
    st.text("xyz .,\n", max_size=8),
    st.sampled_from(
        [f"A_KEY={HUSH}", f"amqp://u:{HUSH}@h", f"password: {HUSH}", f"git://{HUSH}@github.com"]
    ),
)
DOCUMENTS = st.recursive(
    SCALARS | SECRET_TEXTS | st.builds(lambda n, s: {n: s}, SECRET_NAMES, SECRETS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN_NAMES, inner, max_size=3),
)


@given(DOCUMENTS)
def test_no_secret_survives_wherever_it_stands(document: Any) -> None:
    redacted = redact_document(document)
    assert HUSH not in json.dumps(redacted)
    assert redact_document(redacted) == redacted


@given(st.text())
def test_any_text_can_be_redacted_and_twice_is_once(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
