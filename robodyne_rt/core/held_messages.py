"""Whom a staff message is for, and those that were accepted and are not in the database yet (SPEC section 6).

Who comes meanwhile is told from here. The shell around it (`work/staff_messages.py`) pushes and stores.
"""

from collections import OrderedDict

from robodyne_rt.model.access import ROLE_PREFIX, ROLES, Principal
from robodyne_rt.model.changes import Entity

MAX_HELD = 10_000
"""Messages, and keys, in memory."""


def addresses(principal: Principal) -> list[str]:
    """Return the recipients that mean somebody."""
    roles = sorted(principal.roles) if principal.is_bearer or principal.is_anonymous else ROLES
    return [principal.name, *(f"{ROLE_PREFIX}{role}" for role in roles)]


def own_name(principal: Principal) -> str:
    """Return the sender whose messages to a role are not for this one: themselves. Where nobody logs in that would be all."""
    return principal.name if principal.is_bearer else ""


def is_for(principal: Principal, message: Entity) -> bool:
    """Return whether a message is for somebody; what they send to their own name is."""
    recipient = message["recipient"]
    return recipient in addresses(principal) and (recipient == principal.name or message["sender"] != own_name(principal))


class HeldMessages:
    """Messages on their way into the database, and the keys under which messages came."""

    def __init__(self) -> None:
        self._storing: dict[int, Entity] = {}
        self._spooled: dict[int, Entity] = {}
        self._recent: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether storing is so far behind that nothing more is taken."""
        return len(self._storing) + len(self._spooled) >= MAX_HELD

    def begin(self, message: Entity) -> None:
        """Hold a message that is being stored."""
        self._storing[message["id"]] = message

    def spooled(self, id: int) -> None:
        """Note that a message is durable, and not in the database yet."""
        if (message := self._storing.get(id)) is not None:
            self._spooled[id] = message

    def end(self, id: int) -> None:
        """Note that a message is stored, or could not be."""
        self._storing.pop(id, None)

    def let_go(self) -> None:
        """Forget what was only spooled: it is in the database by now."""
        self._spooled.clear()

    def of(self, principal: Principal) -> list[Entity]:
        """Return the messages that are held for somebody, oldest first."""
        return [held for held in (*self._spooled.values(), *self._storing.values()) if is_for(principal, held)]

    def remember(self, sender: str, key: str | None, id: int) -> None:
        """Remember under which key a message came."""
        if key is not None:
            self._recent[sender, key] = id
            if len(self._recent) > MAX_HELD:
                self._recent.popitem(last=False)

    def came_before(self, sender: str, key: str) -> int | None:
        """Return the message that came under a sender's key lately."""
        return self._recent.get((sender, key))
