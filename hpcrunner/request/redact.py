"""Taking the secrets out of what a person sees: documents by member name, text by pattern.

A net below the rule that secrets are not printed at all, and best effort by nature: it knows
names, and values only where their kind shows. Both functions take time linear in their input,
whatever it is.
"""

from __future__ import annotations

import re
from typing import Any

from hpcrunner.request.keyblock import MASK, without_rest

MAX_DEPTH = 128

# A member whose name holds one of these is masked whole. "key" alone is the name of an
# experiment or an object in a store, save among variables, whose names people choose.
_SECRET_MEMBER = re.compile(r"secret|pass|token|credential|key|cookie|jwt|authoriz", re.IGNORECASE)
_KEPT_MEMBERS = frozenset({"key"})
_VARIABLES = frozenset({"env", "environment"})
_TAGS = frozenset({"artifacts"})  # the names in it are the person's, and name no secret

# The Go runner's two patterns, without their quadratic scans: a name with one of these words
# and "=" masks the rest of the line; so does a GitHub token in a URL of git.
_VARIABLE_WORD = re.compile(r"CREDENTIAL|PASSWORD|PASSWD|TOKEN|SECRET|KEY")
_GITHUB = "@github.com"
_GIT_URL = re.compile(r"git\+https://|git://")
# Names in any case, long enough to spare the "token: 5" and "key=" of ordinary output.
_SECRET_WORD = re.compile(
    r"secret|passw(?:or)?d|passphrase|credential|authorization|signature|"
    r"(?:access|api|private|session|security|auth|account|signing|bearer)[_-]?(?:key|token)",
    re.IGNORECASE,
)
# An option (--token=…) or a query's member (?token=…) may have a shorter one.
_SECRET_OPTION = re.compile(
    r"(?:.*[-_])?(?:key|token|secret|pass(?:word|wd|phrase)?|credentials?)", re.IGNORECASE
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HINT = re.compile(r"key|token|secret|pass|credential|authorization|signature|@", re.IGNORECASE)
# Values that show what they are: a private key in PEM, also one that is cut off or in JSON; keys
# of AWS, tokens of GitHub, GitLab, Hugging Face and Slack, JSON web tokens, Slack's webhooks, and
# what HTTP has behind "Bearer". None begins inside a word, which keeps the scan linear.
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_TELLING = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|gh[oprsu]_[0-9A-Za-z]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|hf_[0-9A-Za-z]{30,}"
    r"|xox[a-z]-[\w-]{10,}"
    r"|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
    r")"
    r"|(?<=//hooks\.slack\.com/)[\w/-]+"
    r"|(?<=[Bb]earer )[\w.~+/-]{16,}=*"
)
_TELLING_HINT = re.compile(r"AKIA|ASIA|gh[oprsu]_|github_pat_|glpat-|hf_|xox|eyJ|//hooks\.|earer ")
_USERINFO = re.compile(r'(://)[^/\s"<>]*@')
_SEPARATOR = re.compile(r"[=:]")
_WORDS = re.compile(r": (?!Bearer |Basic )[A-Za-z']{1,32}[,;]? \S")
_GAP = " \t\"'\\"  # between a name and its separator, in JSON and YAML
_MAX_GAP = 8


def redact_document(document: Any) -> Any:
    """A copy of a JSON document without its credentials.

    Masked are members with a secret's name (``key`` itself is kept outside ``env``), and in
    every text what ``redact_text`` knows. In a list, also the word after ``--password`` and its
    like, or after a variable's name such as ``AWS_SECRET_ACCESS_KEY``.
    """
    return _redacted(document, "", 0)


def redact_text(text: str, *, prose: bool = False) -> str:
    """Text without credentials in URLs and in ``NAME=value``, line by line, without private keys
    in PEM, and without tokens whose kind shows.

    With ``prose`` (our own log lines and errors) words behind ``name:`` stay, as those of
    ``message.signature: does not verify``; a single value there is masked all the same.
    """
    text = _without_telling_values(text)
    if not _HINT.search(text):
        return text
    return "".join(_redacted_line(line, prose) for line in text.splitlines(keepends=True))


def redact_texts(document: Any) -> Any:
    """A copy of a JSON document in whose texts ``redact_text`` has masked what it knows.

    Members' names are not judged: ``tokens_per_second`` is a result.
    """
    if isinstance(document, str):
        return redact_text(document)
    if isinstance(document, dict):
        return {member: redact_texts(inner) for member, inner in document.items()}
    if isinstance(document, list):
        return [redact_texts(inner) for inner in document]
    return document


def _redacted(value: Any, name: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return MASK
    if isinstance(value, str):
        return _redacted_word(value)
    if isinstance(value, (list, tuple)):
        return _redacted_list(value, name, depth)
    if isinstance(value, dict):
        return {
            member: MASK
            if inner not in (None, "") and _is_secret(str(member), name)
            else _redacted(inner, str(member), depth + 1)
            for member, inner in value.items()
        }
    return value if value is None or isinstance(value, (bool, int, float)) else MASK


def _redacted_list(values: list[Any] | tuple[Any, ...], name: str, depth: int) -> list[Any]:
    masked: list[Any] = []
    secret_follows = False
    for value in values:
        masked.append(MASK if secret_follows else _redacted(value, name, depth + 1))
        secret_follows = not secret_follows and isinstance(value, str) and _announces_secret(value)
    return masked


def _is_secret(member: str, parent: str) -> bool:
    if parent in _TAGS or (member in _KEPT_MEMBERS and parent not in _VARIABLES):
        return False
    return _SECRET_MEMBER.search(member) is not None


def is_secret_variable(name: str) -> bool:
    """Whether a variable of that name is taken to hold a secret."""
    return bool(_VARIABLE.fullmatch(name) and _VARIABLE_WORD.search(name))


def _announces_secret(word: str) -> bool:
    if word.startswith("-"):
        return _SECRET_OPTION.fullmatch(word) is not None
    return is_secret_variable(word)


def _redacted_word(text: str) -> str:
    """One text of a document: a secret in it may run over several lines."""
    text = _without_telling_values(text)
    return _redacted_line(text) if _HINT.search(text) else text


def _redacted_line(line: str, prose: bool = False) -> str:
    line = _USERINFO.sub(rf"\1{MASK}@", _without_github_tokens(line))
    start = _secret_start(line, prose)
    if start is None:
        return line
    ending = line[len(line.rstrip("\r\n")) :]
    return f"{line[:start]}{MASK}{ending}"


def _without_telling_values(text: str) -> str:
    if "PRIVATE KEY" in text:
        text = without_rest(_PEM.sub(MASK, text))
    return _TELLING.sub(MASK, text) if _TELLING_HINT.search(text) else text


def _without_github_tokens(line: str) -> str:
    pieces = line.split(_GITHUB)
    for index, piece in enumerate(pieces[:-1]):
        url = _GIT_URL.search(piece)
        if url:
            pieces[index] = piece[: url.end()] + MASK
    return _GITHUB.join(pieces)


def _secret_start(line: str, prose: bool) -> int | None:
    """Where the value of the line's first secret begins."""
    left = 0
    for separator in _SEPARATOR.finditer(line):
        end = separator.start()
        while end > left and separator.start() - end < _MAX_GAP and line[end - 1] in _GAP:
            end -= 1
        start = end
        while start > left and (line[start - 1].isalnum() or line[start - 1] in "_-"):
            start -= 1
        name = line[start:end]
        is_assignment = separator[0] == "=" and end == separator.start()
        is_option = name.startswith("-") or line[max(start - 1, 0) : start] in ("?", "&")
        words_follow = prose and end == separator.start() and _WORDS.match(line, end) is not None
        if (
            (_SECRET_WORD.search(name) and not words_follow)
            or (is_assignment and _VARIABLE_WORD.search(name))
            or (is_option and _SECRET_OPTION.fullmatch(name))
        ):
            return separator.end()
        left = separator.end()
    return None
