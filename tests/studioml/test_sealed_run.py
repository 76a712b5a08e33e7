"""The released client's sealed and signed run (0.0.49), unchanged, on the real cluster."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pika
import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.rabbitmq,
    pytest.mark.s3,
    pytest.mark.client,
    pytest.mark.timeout(600),
]

VERSION = "0.0.49"
PASSPHRASE = b"open sesame"
SECRET = "told-in-confidence"

SCRIPT = """
import os
print("confidence", os.environ["CONFIDENCE"])
open("../modeldir/weights.txt", "w").write("0.5")
"""


def make_keys(folder: Path, prefix: str) -> None:
    """What the site makes (to open requests, to know who signs) and what its user has."""
    opener = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = pem.BestAvailableEncryption(PASSPHRASE)
    site = folder / "keys"
    for name in ("encryption", "passphrase", "signers"):
        (site / name).mkdir(parents=True)
    (site / "encryption" / "ssh-privatekey").write_bytes(
        opener.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.TraditionalOpenSSL, secret)
    )
    (site / "passphrase" / "ssh-passphrase").write_bytes(PASSPHRASE)
    (folder / "request.pem").write_bytes(
        opener.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.PKCS1)
    )
    for name in ("mine", "stranger"):
        signer = ed25519.Ed25519PrivateKey.generate()
        (folder / name).write_bytes(
            signer.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.OpenSSH, pem.NoEncryption())
        )
        line = signer.public_key().public_bytes(pem.Encoding.OpenSSH, pem.PublicFormat.OpenSSH)
        if name == "mine":
            (site / "signers" / prefix).write_bytes(line + b"\n")
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.chmod(0o600)


def waiting(url: str, queue: str) -> list[bytes]:
    """The messages of a queue, which stay there."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        bodies = []
        while (body := channel.basic_get(queue)[2]) is not None:
            bodies.append(body)
        return bodies  # what was not acknowledged goes back


def test_a_sealed_run_comes_back_and_one_of_a_stranger_or_in_clear_text_is_set_aside(
    workdir: Path, new_customer: Any, serving: Any
) -> None:
    customer = new_customer(workdir, VERSION, env={"CONFIDENCE": SECRET})
    make_keys(workdir, "rmq_")
    (workdir / "workspace" / "run.py").write_text(SCRIPT)
    clear = json.loads(customer.config.read_text())
    configs = {"clear": customer.config}
    for name in ("mine", "stranger"):
        keys = {
            "public_key_path": f"{workdir}/request.pem",
            "signing_key_path": f"{workdir}/{name}",
        }
        configs[name] = workdir / f"{name}.yaml"
        configs[name].write_text(json.dumps({**clear, **keys}))
    subprocess.run(["chown", "-R", customer.cluster.user, workdir], check=True)

    def submit(name: str) -> str:
        key: str = customer.studio_run(f"{name}_{workdir.name}", "run.py", config=configs[name])
        return key

    with ThreadPoolExecutor(3) as pool:
        keys = dict(zip(configs, pool.map(submit, configs), strict=True))
    messages = waiting(customer.cluster.facts["rabbitmq"]["url"], customer.queue)
    assert sorted(SECRET.encode() in message for message in messages) == [False, False, True]
    for message in messages:
        if SECRET.encode() not in message:
            assert set(json.loads(message)["message"]) >= {"payload", "signature", "fingerprint"}

    options = ("--encrypt-dir", workdir / "keys")
    options += ("--request-signatures-dir", workdir / "keys" / "signers")
    with serving(customer, "auto", *options) as gateway:
        told = customer.read(keys["mine"], "output", "modeldir", until="finished")
        end = time.monotonic() + 150
        while len(rows := gateway.status()) < 3 or any(e["ended_at"] is None for e in rows):
            assert time.monotonic() < end, rows
            time.sleep(0.5)
    assert told["output"]["file"] == f"confidence {SECRET}\n"
    assert told["modeldir"] == {"folder": {"weights.txt": "0.5"}}
    succeeded = [e for e in rows if e["state"] == "SUCCEEDED"]
    assert [e["key"] for e in succeeded] == [keys["mine"]]
    aside = [e for e in rows if e["state"] == "REJECTED"]
    assert len(aside) == 2 and all(e["dead"] for e in aside)
    texts = " | ".join(sorted(e["text"] for e in aside))
    assert "signature" in texts and "clear" in texts, texts
    for name in ("stranger", "clear"):
        assert customer.read(keys[name])["time_started"] is None
    assert SECRET not in gateway.log()
