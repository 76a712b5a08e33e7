"""Where keys are, and whether clear text is taken: what a person says at the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """The key options as given; "" means not given. The folders may hold ``$NAME``.

    ``clear_text`` None: clear text is taken exactly where no keys for requests are configured.
    """

    encrypt_dir: str = ""
    request_signatures_dir: str = ""
    response_signatures_dir: str = ""
    clear_text: bool | None = None

    @property
    def takes_clear_text(self) -> bool:
        """What holds for queues of which the site says nothing."""
        if self.clear_text is not None:
            return self.clear_text
        return not (self.encrypt_dir or self.request_signatures_dir)


NO_KEY_OPTIONS = KeyOptions()
