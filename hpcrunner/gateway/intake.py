"""From deliveries to journal rows: a group is written down, synced, and only then settled."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import Admission, NotAdmitted, admit_request, rule_of
from hpcrunner.gateway.digests import Digests, digests_of
from hpcrunner.gateway.experiment import Experiment, Reports, State
from hpcrunner.gateway.happenings import Copied, Looked, Received, Tell, nobody
from hpcrunner.gateway.journal import Journal, NewExperiment
from hpcrunner.gateway.opening import Opener
from hpcrunner.queues.contract import EQUAL, Delivery, Shares, Source
from hpcrunner.queues.turns import Portions
from hpcrunner.request.errors import RequestError
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_LARGEST_LOOK = 32 * 1024 * 1024
_LONGEST_KEY = 256


class Intake:
    """Takes what waits on the sources, bounded, and writes it down."""

    def __init__(
        self,
        sources: Sequence[Source],
        journal: Journal,
        site: Site,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        tell: Tell = nobody,
        opener: Opener | None = None,
        reports: Collection[str] = (),
        shares: Shares = EQUAL,
    ) -> None:
        """``reports`` are the kinds of servers (see Served) whose clients are sent reports."""
        self._sources = {f"{place} {s.name}": s for place, s in enumerate(sources)}
        self._portions = Portions(clock, shares.weight)
        self._reports = reports
        self._opener = opener or Opener()
        self._journal = journal
        self._site = site
        self._clock = clock
        self._new_id = new_id
        self._tell = tell

    def drain(self, most: int) -> int:
        """Take up to ``most`` messages, shared among all queues; returns how many were settled.

        Every source is asked, for none where there is no room: connections want to be heard.
        Raises JournalError where they could not be written down: they stay unsettled and come
        back from their queues.
        """
        settled = 0
        self._opener.refresh()
        looked = dict.fromkeys(self._sources, False)
        for name, portion in self._portions.of(list(self._sources), most):
            source = self._sources[name]
            deliveries = source.take(portion)
            looked[name] = looked[name] or portion > 0
            self._portions.came(name, (delivery.queue for delivery in deliveries))
            if not deliveries:
                continue
            crashpoint("intake.taken")
            new = self._write_down(
                [_placed(delivery, source) for delivery in deliveries],
                responds=source.served().kind in self._reports,
            )
            crashpoint("intake.journalled")
            source.accept(deliveries)
            crashpoint("intake.accepted")
            self._journal.settled(new)
            settled += len(deliveries)
            log.info("%s: %d message(s) taken and journalled", source.name, len(deliveries))
        for name, source in self._sources.items():
            self._tell(Looked(source.name, source.served(), passed_over=not looked[name]))
        # Of equals another one is first in the next round.
        first = next(iter(self._sources), None)
        if first is not None:
            self._sources[first] = self._sources.pop(first)
        return settled

    def pass_over(self) -> None:
        """Take nothing this round: the spool is drained."""
        for source in self._sources.values():
            self._tell(Looked(source.name, source.served(), passed_over=True))

    def rest(self) -> None:
        """Let the sources go until the next drain: what they hold goes back to its queues."""
        for source in self._sources.values():
            source.close()

    def _write_down(self, deliveries: Sequence[Delivery], *, responds: bool) -> list[str]:
        """Journal a group; returns the ids that its messages go by, for the queue to settle."""
        new: dict[str, NewExperiment] = {}
        again: dict[str, str] = {}
        for delivery in deliveries:
            digests = digests_of(delivery.body)
            first = self._repeated(delivery, digests, new)
            if first is None:
                row = self._consider(delivery, digests, responds=responds)
                new[row.experiment.id] = row
            else:
                log.info("%s: another copy of %s, not run twice", delivery.queue, first)
                self._tell(Copied(delivery.queue))
                again[first] = f"another copy of its message came by queue {delivery.queue}"
        if new:
            self._journal.add(list(new.values()))
            for row in new.values():
                self._tell(Received(row.experiment, row.time_added))
        for experiment, text in again.items():
            self._journal.remark([experiment], text)
        return [*new, *again]

    def _repeated(
        self, delivery: Delivery, digests: Digests, new: Mapping[str, NewExperiment]
    ) -> str | None:
        """The experiment that this message is only a copy of.

        A broker sends a message again whose acknowledgement it never had, and a client one whose
        confirmation it never had: same bytes, key and time of adding included. Who means to run
        an experiment again sends other bytes, or the same after a while.

        Of a sealed message only the seal counts: its header is not signed, and a client that
        means to run it again seals it anew. So it is run once for as long as it is remembered.
        """
        if self._opener.is_ours(delivery.queue, delivery.server) and not delivery.redelivered:
            return None  # by hand, so deliberately
        for row in new.values():
            if row.digest in (digests.body, digests.seal) and _repeats(delivery, row.experiment):
                return row.experiment.id
        known = self._journal.repeated(digests.body, self._clock() - self._site.repeat_window)
        if known is not None and not _repeats(delivery, known):
            known = None
        if known is None and digests.seal:
            known = self._journal.by_digest(digests.seal, 0.0)
        return known.id if known else None

    def _consider(self, delivery: Delivery, digests: Digests, *, responds: bool) -> NewExperiment:
        now = self._clock()
        experiment = self._new_id()
        reason = Reason.REJECTED
        clear = delivery.body
        reports = Reports.NONE
        due = Reports.DUE if responds else Reports.NONE
        try:
            opened = self._opener.open(delivery.queue, delivery.server, delivery.body)
            clear, reports = opened.clear, due
            rule = rule_of(opened.request, self._site, delivery.queue, signed=opened.signed)
            admission = admit_request(opened.request, self._site, now, rule)
        except NotAdmitted as error:
            text, reason = error.line(), error.reason
        except HpcrunnerError as error:
            text = error.line()
            if isinstance(error, RequestError) and self._names_itself(delivery):
                reports = due
        except Exception:
            # A message that trips over a fault of ours must not come back to trip us again.
            log.exception("%s: a fault while reading %s", delivery.queue, experiment)
            text = "a fault in hpcrunner while reading the message; the gateway's log has it"
        else:
            row = replace(
                _accepted(experiment, admission, delivery, now),
                reports=reports,
                rule=rule.name if rule else "",
            )
            return NewExperiment(row, clear, digests.of_run, admission.request.time_added)
        log.warning(
            "%s: %s set aside: %s",
            delivery.queue,
            experiment,
            text,
            extra={"experiment": experiment, "queue": delivery.queue, "reason": reason.value},
        )
        row = Experiment(
            id=experiment,
            key=claimed_key(clear),
            queue=delivery.queue,
            server=delivery.server,
            state=State.REJECTED,
            received_at=now,
            reason=reason,
            text=text,
            ended_at=now,
            reports=reports,
        )
        return NewExperiment(row, delivery.body, digests.body)

    def _names_itself(self, delivery: Delivery) -> bool:
        """Whether a message that makes no sense came in clear, as it may, and says whose it is.

        What is sealed and could not be opened is nobody's: its sender is told nothing.
        """
        clear = self._opener.may_be_clear(delivery.queue, delivery.server)
        return clear and claimed_key(delivery.body) != ""


def _repeats(delivery: Delivery, first: Experiment) -> bool:
    """Whether the same bytes are a copy: not of what another queue's rules, keys or limits have
    set aside, which never ran and may be welcome at this queue.
    """
    here = (first.queue, first.server) == (delivery.queue, delivery.server)
    return here or first.state is not State.REJECTED


def _placed(delivery: Delivery, source: Source) -> Delivery:
    return delivery if delivery.server else replace(delivery, server=source.name)


def _accepted(experiment: str, admission: Admission, delivery: Delivery, now: float) -> Experiment:
    request = admission.request
    return Experiment(
        id=experiment,
        key=request.key,
        queue=delivery.queue,
        server=delivery.server,
        state=State.ACCEPTED,
        received_at=now,
        spec=admission.spec,
        owner=request.owner,
        project=request.project,
    )


def claimed_key(body: bytes) -> str:
    """The key a refused message claims to have, so that its sender can find it; "" if none."""
    if len(body) > _LARGEST_LOOK:
        return ""
    try:
        key = json.loads(body)["experiment"]["key"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return key[:_LONGEST_KEY] if isinstance(key, str) and key.isprintable() else ""
