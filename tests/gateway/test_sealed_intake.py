"""Sealed messages through intake, journal and the dead list; and who may send clear text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import client_seal as client
import pytest

from hpcrunner.gateway.experiment import Outcome, Reports, State
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.opening import Opener
from hpcrunner.gateway.preview import preview
from hpcrunner.gateway.spool import SUBMIT_QUEUE, Verb
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.keys.folder import KeyFolder
from hpcrunner.keys.keyring import Keyring, request_keys
from hpcrunner.keys.options import KeyOptions
from hpcrunner.keys.requestkeys import RequestKeys
from hpcrunner.queues.contract import Delivery
from hpcrunner.request.reasons import Reason
from hpcrunner.request.signature import load_signing_key
from hpcrunner.sites.parts import ClearText

Message = Callable[..., bytes]

QUEUE = "local_pile"
KEY, SIGNER = client.rsa_key(), client.signing_key()
OPTIONS = KeyOptions(encrypt_dir="there", request_signatures_dir="there")


class Keyed:
    """A gateway's parts with folders of keys, which a test changes."""

    def __init__(self, parts: Any, folder: Path) -> None:
        self.parts = parts
        self.encrypt, self.signing = client.write_keys(
            folder,
            {"ssh-privatekey": client.private_pem(KEY)},
            {"local_": client.public_line(SIGNER)},
        )
        self.use()

    def use(self, options: KeyOptions = OPTIONS, rules: tuple[ClearText, ...] = ()) -> None:
        clock = self.parts.clock
        self.keys = Keyring(
            RequestKeys(self.encrypt, clock=clock, environ={}),
            KeyFolder(self.signing, load_signing_key, "--request-signatures-dir", clock=clock),
        )
        opener = Opener(self.keys, options, rules, own="pile")
        p = self.parts
        make = {"clock": clock, "new_id": lambda: f"{next(p.ids):012x}", "opener": opener}
        # As if its queues were of a kind that has response queues.
        p.intake = Intake([p.pile], p.journal, p.site, **make, reports=["local"])
        p.wishes = Wishes(p.journal, p.spool, p.scheduler, p.site, **make)

    def take(self, body: bytes, queue: str = QUEUE, server: str = "broker") -> Any:
        """What became of one message."""
        known = {e.id for e in self.parts.journal.recent(100)}
        self.parts.pile.waiting.append(Delivery(queue, body, False, None, server))
        assert self.parts.intake.drain(10) == 1
        (new,) = [e for e in self.parts.journal.recent(100) if e.id not in known]
        return new

    def retry(self, experiment: Any) -> Any:
        """The experiment that it runs again as, or None."""
        self.parts.clock.forward(11)  # files may have changed
        self.parts.spool.wish(Verb.RETRY, [experiment.id])
        self.parts.wishes.step()
        (now,) = self.parts.journal.find(experiment.id)
        return self.parts.journal.find(now.retried_as)[0] if now.retried_as else None


@pytest.fixture
def keyed(parts: Any, tmp_path: Path) -> Keyed:
    return Keyed(parts, tmp_path / "keys")


def sealed(body: bytes, **how: Any) -> bytes:
    how = {"recipient": KEY.public_key(), "signer": SIGNER, **how}
    return json.dumps(client.envelope(body, **how)).encode()


def refused(experiment: Any) -> str:
    assert (experiment.state, experiment.reason) == (State.REJECTED, Reason.REJECTED)
    assert experiment.spec is None
    assert experiment.reports is Reports.NONE
    assert experiment.aside
    assert "\n" not in experiment.text
    text: str = experiment.text
    return text


@pytest.mark.parametrize("ssh", [False, True])
def test_a_sealed_message_is_accepted_and_journalled_in_clear(
    keyed: Keyed, message: Message, ssh: bool
) -> None:
    body = message("mine", cpus=2)
    found = keyed.take(sealed(body, ssh=ssh))
    assert (found.state, found.key, found.spec.cpus) == (State.ACCEPTED, "mine", 2)
    assert found.reports is Reports.DUE
    assert keyed.parts.journal.message(found.id) == body


def test_it_is_dispatched_as_any_other(keyed: Keyed, message: Message) -> None:
    keyed.take(sealed(message("mine")))
    keyed.parts.dispatch.step()
    (found,) = keyed.parts.journal.live()
    assert found.state is State.PENDING


def test_a_copy_is_known_by_the_bytes_that_came(keyed: Keyed, message: Message) -> None:
    body = sealed(message("mine"))
    keyed.take(body)
    keyed.parts.pile.put(body, redelivered=True)
    keyed.parts.intake.drain(10)
    assert len(keyed.parts.journal.live()) == 1


def with_header(body: bytes, **changed: object) -> bytes:
    """The same seal and signature under another header, which anybody could write."""
    document = json.loads(body)
    document["message"].update(changed)
    return json.dumps(document).encode()


def test_a_seal_is_run_once_whenever_and_with_whatever_header_it_comes_again(
    keyed: Keyed, message: Message
) -> None:
    body = sealed(message("mine"))
    first = keyed.take(body)
    won = Outcome(State.SUCCEEDED, Reason.COMPLETED, "ended well")
    keyed.parts.journal.end([(first.id, won)])
    keyed.parts.clock.forward(keyed.parts.site.repeat_window + 7 * 86400)
    for copy in (body, with_header(body, time_added=1.9e9)):
        keyed.parts.pile.put(copy)
        keyed.parts.intake.drain(10)
    assert keyed.parts.journal.live() == []
    assert len(keyed.parts.journal.recent(10)) == 1
    assert keyed.take(sealed(message("mine"))).state is State.ACCEPTED  # sealed anew, so wanted


def test_a_copy_under_an_altered_header_does_not_hold_up_the_true_message(
    keyed: Keyed, message: Message
) -> None:
    body = sealed(message("mine"))
    altered = keyed.take(with_header(body, resources_needed={"cpus": 64}))
    assert "differs from the sealed request" in refused(altered)
    assert keyed.take(body).state is State.ACCEPTED


def test_a_seal_that_was_refused_and_then_retried_is_run_once_as_well(
    keyed: Keyed, message: Message
) -> None:
    signing = keyed.signing / "local_"
    away = signing.rename(signing.with_name(".away"))
    keyed.use()
    body = sealed(message("mine"))
    found = keyed.take(body)
    away.rename(signing)
    assert keyed.retry(found).state is State.ACCEPTED
    keyed.parts.pile.put(with_header(body, time_added=1.9e9))
    keyed.parts.intake.drain(10)
    assert len(keyed.parts.journal.live()) == 1


WRONG = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"signature": None}, "message.signature: missing"),
        ({"fingerprint": None}, "message.fingerprint: missing"),
        ({"signature": WRONG}, "not made by the key of this queue"),
        ({"signature": "§"}, "not base64"),
        ({"signer": client.signing_key(1)}, "not made by the key of this queue"),
        ({"recipient": client.rsa_key(1).public_key()}, "keys here: ssh-privatekey"),
        ({"payload": "one part"}, "0 commas"),
        ({"resources_needed": {"cpus": 64}}, "differs from the sealed request in cpus"),
        ({"resources_needed": {"cpus": "many"}}, "message.resources_needed.cpus"),
    ],
)
def test_what_fails_a_check_is_set_aside_sealed_and_the_queue_goes_on(
    keyed: Keyed, message: Message, how: dict[str, Any], said: str
) -> None:
    body = sealed(message("bad"), **how)
    found = keyed.take(body)
    assert said in refused(found)
    assert keyed.parts.journal.message(found.id) == body
    assert keyed.take(sealed(message("good"))).state is State.ACCEPTED
    assert keyed.parts.pile.waiting == []


def test_no_text_and_no_log_line_shows_what_was_sealed(
    keyed: Keyed, message: Message, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        for how in ({}, {"signature": WRONG}, {"resources_needed": {"cpus": 64}}):
            keyed.take(sealed(message("bad", gpus=3), **how))
    texts = [e.text for e in keyed.parts.journal.recent(10)]
    assert len(texts) == 3
    assert "hush-hush" not in caplog.text + "".join(texts)


def test_what_was_opened_and_does_not_fit_is_kept_sealed_under_its_key(
    keyed: Keyed, message: Message
) -> None:
    body = sealed(message("large", ram="900g"))
    found = keyed.take(body)
    assert found.state is State.REJECTED
    assert found.key == "large"
    assert found.reports is Reports.DUE  # its sender is known, and may be told
    assert keyed.parts.journal.message(found.id) == body


def test_a_queue_without_a_signing_key_is_named(keyed: Keyed, message: Message) -> None:
    text = refused(keyed.take(sealed(message("x")), queue="rmq_other"))
    assert "no key for the queue 'rmq_other'" in text
    assert "--request-signatures-dir" in text


def test_the_queue_s_own_key_counts_and_not_the_one_of_its_prefix(
    keyed: Keyed, message: Message
) -> None:
    other = client.signing_key(1)
    (keyed.signing / "local_pile").write_bytes(client.public_line(other))
    keyed.use()
    assert "not made by" in refused(keyed.take(sealed(message("old"))))
    assert keyed.take(sealed(message("new"), signer=other)).state is State.ACCEPTED
    assert keyed.take(sealed(message("x")), queue="local_else").state is State.ACCEPTED


def test_clear_text_is_refused_by_default_where_there_are_keys(
    keyed: Keyed, message: Message
) -> None:
    assert "clear text is not taken" in refused(keyed.take(message("open")))


def test_clear_text_is_taken_where_the_option_says_so(keyed: Keyed, message: Message) -> None:
    keyed.use(KeyOptions(encrypt_dir="x", request_signatures_dir="x", clear_text=True))
    assert keyed.take(message("open")).state is State.ACCEPTED
    assert keyed.take(sealed(message("closed"))).state is State.ACCEPTED


def test_clear_text_can_be_refused_without_any_keys(keyed: Keyed, message: Message) -> None:
    keyed.use(KeyOptions(clear_text=False))
    assert "clear text is not taken" in refused(keyed.take(message("open")))


@pytest.mark.parametrize("by_option", [True, False])
def test_the_site_s_first_rule_that_fits_beats_the_option(
    keyed: Keyed, message: Message, by_option: bool
) -> None:
    rules = (
        ClearText(queues="^rmq_public_closed", allowed=False),
        ClearText(queues="^rmq_public_", allowed=True),
        ClearText(queues="secret", allowed=False),
    )
    keyed.use(KeyOptions(clear_text=by_option), rules)
    expected = {
        "rmq_public_closed_1": False,
        "rmq_public_1": True,
        "rmq_public_secret": True,
        "rmq_secret": False,
        "rmq_other": by_option,
    }
    for queue, taken in expected.items():
        found = keyed.take(message(queue), queue=queue)
        assert found.state is (State.ACCEPTED if taken else State.REJECTED), queue


def test_what_is_submitted_by_hand_may_always_be_clear(keyed: Keyed, message: Message) -> None:
    rules = (ClearText(queues=".", allowed=False),)
    keyed.use(rules=rules)
    found = keyed.take(message("mine"), queue=SUBMIT_QUEUE, server="")
    assert (found.state, found.server) == (State.ACCEPTED, "pile")


def test_a_queue_elsewhere_that_is_named_like_the_spool_s_own_may_not(
    keyed: Keyed, message: Message
) -> None:
    found = keyed.take(message("theirs"), queue=SUBMIT_QUEUE, server="amqp://broker/")
    assert "clear text is not taken" in refused(found)
    assert keyed.retry(found) is None


def test_without_a_key_yet_it_waits_on_the_dead_list_and_retry_opens_it(
    keyed: Keyed, message: Message
) -> None:
    key = keyed.encrypt / "encryption" / "ssh-privatekey"
    away = key.rename(key.with_name("away"))
    keyed.use()
    found = keyed.take(sealed(message("early")))
    assert "no key to open requests with" in refused(found)
    assert keyed.retry(found) is None
    away.rename(key)
    again = keyed.retry(found)
    assert (again.state, again.key) == (State.ACCEPTED, "early")
    assert keyed.parts.journal.message(again.id) == message("early")
    keyed.parts.dispatch.step()
    assert [e.state for e in keyed.parts.journal.live()] == [State.PENDING]


def test_a_key_that_others_can_read_opens_nothing_until_it_is_private(
    keyed: Keyed, message: Message
) -> None:
    key = keyed.encrypt / "encryption" / "ssh-privatekey"
    key.chmod(0o644)
    keyed.use()
    found = keyed.take(sealed(message("early")))
    assert "0644" in refused(found)
    key.chmod(0o600)
    assert keyed.retry(found).state is State.ACCEPTED


def test_keys_are_rotated_without_a_gap(keyed: Keyed, message: Message) -> None:
    new = client.rsa_key(1)
    old_file = keyed.encrypt / "encryption" / "ssh-privatekey"
    assert "does not open" in refused(keyed.take(sealed(message("a"), recipient=new.public_key())))
    new_file = old_file.with_name("ssh-privatekey-2027")
    new_file.touch(0o600)
    new_file.write_bytes(client.private_pem(new))
    keyed.parts.clock.forward(11)
    for name, key in (("b", KEY), ("c", new)):
        found = keyed.take(sealed(message(name), recipient=key.public_key()))
        assert found.state is State.ACCEPTED
    old_file.unlink()
    keyed.parts.clock.forward(11)
    assert keyed.take(sealed(message("d"), recipient=new.public_key())).state is State.ACCEPTED
    text = refused(keyed.take(sealed(message("e"))))
    assert "keys here: ssh-privatekey-2027" in text


def test_an_accepted_experiment_is_retried_whatever_became_of_the_keys(
    keyed: Keyed, message: Message
) -> None:
    found = keyed.take(sealed(message("mine")))
    outcome = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "ended with 1")
    keyed.parts.journal.end([(found.id, outcome)])
    (keyed.encrypt / "encryption" / "ssh-privatekey").unlink()
    again = keyed.retry(found)
    assert (again.state, again.attempt) == (State.ACCEPTED, 2)


def test_a_sealed_request_is_previewed_with_the_key_and_masked(
    keyed: Keyed, message: Message
) -> None:
    body = sealed(message("mine"))
    shown = preview(body, keyed.parts.site, request_keys(str(keyed.encrypt)))
    assert "mine" in shown["plan_text"]
    assert "hush-hush" not in shown["plan_text"]


def test_a_rule_for_signed_messages_holds_for_sealed_ones_alone_and_again_at_a_retry(
    keyed: Keyed, message: Message
) -> None:
    rules = [{"name": "sealed", "signed": True, "account": "known"}, {"name": "others"}]
    site = keyed.parts.site
    keyed.parts.site = type(site).model_validate({**dict(site), "rules": rules})
    keyed.use(replace(OPTIONS, clear_text=True))
    clear, mine = keyed.take(message("clear")), keyed.take(sealed(message("mine")))
    assert (clear.rule, mine.rule, mine.spec.account) == ("others", "sealed", "known")
    by_hand = keyed.take(message("hand"), queue=SUBMIT_QUEUE, server="pile")
    assert by_hand.rule == "sealed", "only we can write there"
    failed = Outcome(State.FAILED, Reason.PAYLOAD_EXIT, "exit code 1")
    for e, rule in ((clear, "others"), (mine, "sealed"), (by_hand, "sealed")):
        keyed.parts.journal.end([(e.id, failed)])
        assert keyed.retry(e).rule == rule
