"""One style of names per wire: snake_case on HTTP.

Older answers had some names in camelCase; those are given beside the new ones for one more version, and taken in bodies.
"""

import re
from typing import Any

OTHERS_WORDS = frozenset({"payload", "details", "data"})
"""What stands there was said by somebody else, and is repeated as it was said."""


def snake_case(name: str) -> str:
    """Return a name in snake_case: `expiresIn` becomes `expires_in`."""
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f"_{found[0]}", name).lower()


def with_both_names(body: Any) -> Any:
    """Return the body of an answer with each camelCase name also in snake_case, in it and in the lists that it has."""
    if isinstance(body, list):
        return [with_both_names(item) for item in body]
    if not isinstance(body, dict):
        return body
    found = {
        name: with_both_names(value) if isinstance(value, list) and name not in OTHERS_WORDS else value
        for name, value in body.items()
    }
    return found | {snake_case(name): value for name, value in found.items() if snake_case(name) != name}
