"""Names in Unicode: one name may be written in several forms, and counts as one (SPEC section 2).

A name is compared as NFC. What a foreign program stored in another form stays as it is: it is found by trying the forms.
"""

import unicodedata


def nfc(name: str) -> str:
    """Return a name in the form in which names are compared: what was typed on a Mac may come decomposed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def forms(name: str) -> tuple[str, ...]:
    """Return how a name may be written, as one word each: composed (NFC), and decomposed (NFD) where that is different."""
    return (name,) if name.isascii() else tuple(dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
