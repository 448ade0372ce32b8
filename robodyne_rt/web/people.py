"""`/api/sessions`, `/api/chat`, `/api/messages`: who is there, what was asked, what people tell each other."""

from dataclasses import asdict

from aiohttp import web

from robodyne_rt.model.access import ROLE_PREFIX, Principal
from robodyne_rt.ports import Presence
from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Query
from robodyne_rt.protocol.errors import Forbidden, InvalidPayload
from robodyne_rt.web.body import json_answer
from robodyne_rt.web.context import CONTEXT, PRINCIPAL, Context

MAX_KEY = 200


async def list_sessions(request: web.Request, query: Query) -> web.Response:
    """Return who is there, since when, with which topics and roles."""
    present = await request.app[CONTEXT].sessions.present()
    return json_answer({"sessions": [presence_fields(presence) for presence in present]})


def presence_fields(presence: Presence) -> dict[str, object]:
    """Return a session as clients see it; what only issuers say of users, where one did."""
    fields = {name: value for name, value in asdict(presence).items() if value is not None}
    words = {name: name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:]) for name in fields}
    return {("ttl" if name == "ttl_s" else words[name]): value for name, value in fields.items()}


def profile_fields(principal: Principal) -> dict[str, object]:
    """Return what an issuer says of its user, as clients see it; nothing for others."""
    if (profile := principal.profile) is None:
        return {}
    fields = {"userName": profile.username, "fullName": profile.full_name, "email": profile.email, "company": profile.company}
    return {name: value for name, value in fields.items() if value is not None}


async def list_chat(request: web.Request, query: http.ChatQuery) -> web.Response:
    """Return one's own questions and answers, newest first; an administrator may name another `?user=`."""
    context = request.app[CONTEXT]
    principal = request[PRINCIPAL]
    user = query.user if query.user is not None else principal.name
    if user != principal.name and not principal.may("administer"):
        raise Forbidden("only an administrator may read what others asked")
    if not user.isprintable():
        raise InvalidPayload("user: expected a name")
    if user != principal.name:
        user = context.accounts.resolve(user)
    return json_answer({"messages": await context.history(user, query.before, query.limit)})


async def send_message(request: web.Request, body: http.NewMessage) -> web.Response:
    """Send a staff message; with `Idempotency-Key` it is stored once."""
    context = request.app[CONTEXT]
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise InvalidPayload(f"Idempotency-Key: expected 1 to {MAX_KEY} printable characters")
    sent = await context.messages.send(request[PRINCIPAL], body, key=key)
    return json_answer(sent | {"recipientKnown": _is_known(context, sent["recipient"])}, status=201)


def _is_known(context: Context, recipient: str) -> bool:
    """Return whether there is such a recipient; an issuer has users that are known here only when they came once."""
    if recipient.startswith(ROLE_PREFIX):
        return True
    return context.accounts.has_name(recipient) or any(context.sessions.of_user(recipient))


async def list_messages(request: web.Request, query: http.MessageQuery) -> web.Response:
    """Return what one sent and was sent, newest first; with `?unread=1` what one has not read, oldest first,
    of which `?before=` turns back."""
    context = request.app[CONTEXT]
    principal = request[PRINCIPAL]
    ask = context.messages.unread if query.unread == "1" else context.messages.listed
    return json_answer({"messages": await ask(principal, before=query.before, limit=query.limit)})


async def read_message(request: web.Request) -> web.Response:
    """Note that one read a message."""
    await request.app[CONTEXT].messages.read(request[PRINCIPAL], int(request.match_info["id"]))
    return json_answer({"read": True})
