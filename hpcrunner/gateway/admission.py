"""What a message asks of this site: parsed, placed, and with its container line. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcrunner.batch.container import exec_words
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.faults import NO_RETRIES, RetriesLeft
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.model import Request, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.plan_experiment import plan_experiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.resolve import USUAL, StoreRules
from hpcrunner.request.trust import planned_image
from hpcrunner.sites.node_setup import image_rules, image_store_rules, planned_rules
from hpcrunner.sites.placement import place
from hpcrunner.sites.rules import Rule, rule_for
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec


class NotAdmitted(HpcrunnerError):
    """A message that is well formed but cannot run here; ``reason`` says why."""

    exit_code = 65  # EX_DATAERR

    def __init__(self, what: str, *, where: str, remedy: str, reason: Reason) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that this site can run, and the shape of the job it gets."""

    request: Request
    spec: JobSpec
    exec_words: tuple[str, ...]
    rules: StoreRules = USUAL
    image: PlannedImage | None = None

    def planned(
        self, *, experiment: str, attempt: int, retries: RetriesLeft = NO_RETRIES
    ) -> PlannedExperiment:
        """The experiment as its batch's plan holds it; ``retries`` may follow this attempt.

        Raises RequestError where an artifact's address cannot be made out.
        """
        planned = plan_experiment(
            self.request,
            id=experiment,
            attempt=attempt,
            exec_words=self.exec_words,
            image=self.image,
            retries=retries,
            rules=self.rules,
        )
        return replace(
            planned,
            gpus=self.spec.gpus,
            gpu_vendor=self.spec.gpu_vendor,
            gpu_memory=self.request.resources.gpu_memory if self.spec.gpus else 0,
        )


def admit(body: bytes, site: Site, now: float, rule: Rule | None = None) -> Admission:
    """Parse a message in clear text and place it by the rule that was chosen for it.

    Raises RequestError (not a sound request), NoFit (no partition can hold it), GpusUnclear (its
    numbers of GPUs contradict each other), ImageRefused (its image cannot run here) or
    NotAdmitted (sealed, or its lifetime is over).
    """
    return admit_request(_in_clear(body), site, now, rule)


def admit_from(body: bytes, site: Site, now: float, queue: str, *, signed: bool) -> Admission:
    """As ``admit``, by the rule for what comes by a queue, with a good signature or without.

    Raises RuledOut too, where the site's rules let nobody run it.
    """
    request = _in_clear(body)
    return admit_request(request, site, now, rule_of(request, site, queue, signed=signed))


def rule_of(request: Request, site: Site, queue: str, *, signed: bool) -> Rule | None:
    """The site's rule for a request. Raises RuledOut."""
    return rule_for(site.rules, queue=queue, owner=request.owner, signed=signed)


def _in_clear(body: bytes) -> Request:
    request = parse_message(body)
    if isinstance(request, SealedRequest):
        raise NotAdmitted(
            "the message is sealed",
            where="message.payload",
            remedy="send it by a queue of a gateway that has the keys",
            reason=Reason.REJECTED,
        )
    return request


def admit_request(request: Request, site: Site, now: float, rule: Rule | None = None) -> Admission:
    """Place a request that was parsed. Raises as ``admit``."""
    expires_at = request.expires_at
    if expires_at is not None and expires_at <= now:
        raise NotAdmitted(
            f"its lifetime ended {now - expires_at:.0f} s ago",
            where="config.experimentLifetime",
            remedy="submit it again, with a longer lifetime",
            reason=Reason.LIFETIME_EXPIRED,
        )
    spec = place(
        request.resources,
        site,
        max_duration=request.max_duration,
        lifetime=request.lifetime,
        rule=rule,
    )
    stores = planned_rules(site)
    image = planned_image(request, image_rules(site), image_store_rules(site))
    words = exec_words(site.container, spec, run=request.filename is None) if image else ()
    admission = Admission(request, spec, words, stores, image)
    # Addresses are resolved now, so that a bad one is set aside here and not at dispatch.
    admission.planned(experiment="", attempt=1)
    return admission
