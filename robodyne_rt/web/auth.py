"""`/api/auth` and pairing: how people and screens come by their tokens (SPEC section 8)."""

import logging
from typing import Any

from aiohttp import web

from robodyne_rt.core.onetime import PAIRING_S, TICKET_S
from robodyne_rt.errors import BadRequest, Forbidden, InvalidPayload, RateLimited, TokenInvalid, TokenMissing
from robodyne_rt.model.access import Principal, normal_name
from robodyne_rt.web.accounts import DISPLAY_S, Accounts, Grant
from robodyne_rt.web.body import json_answer, read_object, text_field
from robodyne_rt.web.context import CONTEXT, PRINCIPAL
from robodyne_rt.web.gate import COOKIE, came_by_cookie, page_of

logger = logging.getLogger(__name__)

PAIRINGS_PER_MINUTE = 10


async def login(request: web.Request) -> web.Response:
    """Give a user tokens: `{user, password, cookie?, device?}`."""
    context = request.app[CONTEXT]
    body = await read_object(request, ("user", "password", "cookie", "device"))
    name, password = normal_name(text_field(body, "user", 100)), text_field(body, "password", 500)
    label = text_field(body, "device", 100, default="") or None
    if context.access.is_open or context.auth_mode == "oidc":
        where = "the issuer" if context.auth_mode == "oidc" else "nowhere: nobody is checked here"
        raise Forbidden(f"users log in at {where}")
    address, gate = context.gate.address_of(request), context.gate
    gate.check_failures(address, name)
    if context.accounts.passwords.is_busy:
        raise RateLimited("too many logins at once", retry_after=2)
    try:
        grant = await context.accounts.log_in(name, password, label=label)
    except TokenInvalid:
        gate.note_failure(address, name)
        # A name that nobody bears may be a password that was typed into the wrong field.
        who = f"user {name!r}" if context.accounts.knows(name) else "an unknown user"
        logger.warning("a login of %s from %s failed", who, address, extra={"action": "login_failed"})
        raise
    return _granted(request, context.accounts, grant, cookie=body.get("cookie") is True)


async def refresh(request: web.Request) -> web.Response:
    """Give new tokens for a refresh token, `{refreshToken}`; or, for a page, a short token beside its cookie."""
    context = request.app[CONTEXT]
    body = await read_object(request, ("refreshToken",))
    if "refreshToken" in body:
        address = context.gate.address_of(request)
        context.gate.check_failures(address)
        try:
            grant = await context.accounts.refresh(text_field(body, "refreshToken", 200))
        except TokenInvalid:
            context.gate.note_failure(address)
            raise
        return _granted(request, context.accounts, grant, cookie=False)
    principal = request[PRINCIPAL]
    if principal.token is None or not came_by_cookie(request):  # a short token must not buy a long one
        raise TokenMissing("expected refreshToken, or the cookie of a login")
    grant = await context.accounts.access_for(principal.name, principal.token, sorted(principal.roles))
    return _granted(request, context.accounts, grant, cookie=True)


async def logout(request: web.Request) -> web.Response:
    """Void the login or pairing that the request bears; its connections end at once."""
    context = request.app[CONTEXT]
    principal = request[PRINCIPAL]
    if principal.token is not None:
        await context.accounts.log_out(principal.token)
    response = json_answer({"loggedOut": principal.token is not None})
    response.del_cookie(COOKIE, path="/")
    return response


async def ticket(request: web.Request) -> web.Response:
    """Give a page a ticket for one WebSocket, good for 30 s."""
    context = request.app[CONTEXT]
    text = context.gate.tickets.issue(request[PRINCIPAL], origin=page_of(request), now=context.clock.now())
    return json_answer({"ticket": text, "expiresIn": TICKET_S}, status=201)


async def me(request: web.Request) -> web.Response:
    """Say who the request is from, and what they may do."""
    principal = request[PRINCIPAL]
    response = json_answer(_who(principal) | {"mode": request.app[CONTEXT].auth_mode})
    if principal.is_anonymous and COOKIE in request.cookies:
        response.del_cookie(COOKIE, path="/")  # it is good no more, and no script can see it
    return response


def _who(principal: Principal) -> dict[str, Any]:
    return {
        "user": None if principal.is_anonymous else principal.name,
        "roles": sorted(principal.roles),
        "rights": sorted(principal.rights | principal.place_rights),
    }


def _granted(request: web.Request, accounts: Accounts, grant: Grant, *, cookie: bool) -> web.Response:
    body: dict[str, Any] = {
        "accessToken": grant.access,
        "tokenType": "Bearer",
        "expiresIn": grant.access_s,
        "user": grant.name,
        "roles": grant.roles,
    }
    if not cookie:
        body["refreshToken"] = grant.refresh
    response = json_answer(body)
    if cookie:
        set_cookie(request, response, accounts.cookie(grant), grant.row_expires_at - request.app[CONTEXT].clock.wall())
    return response


def set_cookie(request: web.Request, response: web.Response, token: str, lifetime_s: float) -> None:
    """Let a browser keep a token where no script can read it."""
    # A proxy in front of us may end the TLS; the browser's word about its page is as good.
    secure = request.secure or request.headers.get("Origin", "").startswith("https:")
    response.set_cookie(COOKIE, token, max_age=int(lifetime_s), path="/", httponly=True, samesite="Strict", secure=secure)


# -- pairing ---------------------------------------------------------------------------------------------------------


async def begin_pairing(request: web.Request) -> web.Response:
    """Give a screen six digits to show, and a secret to ask with whether somebody approved."""
    context = request.app[CONTEXT]
    await read_object(request, ())
    address, now = context.gate.address_of(request), context.clock.now()
    verdict = context.pairing_limit.take(address, now)
    if verdict.retry_after:
        raise RateLimited("too many pairings", retry_after=round(verdict.retry_after, 1))
    secret, pairing = context.gate.pairings.begin(address=address, now=now)
    return json_answer({"pairing": secret, "code": pairing.code, "expiresIn": PAIRING_S}, status=201)


async def look_at_pairing(request: web.Request) -> web.Response:
    """Tell a screen whether it was approved; then, once, its token: as a cookie where it asks `?cookie=1`."""
    context = request.app[CONTEXT]
    pairing = context.gate.pairings.look(request.match_info["pairing"], context.clock.now())
    if not pairing.token:
        return json_answer({"status": "waiting", "code": pairing.code})
    if request.method == "HEAD":
        return json_answer({"status": "approved"})
    context.gate.pairings.finish(request.match_info["pairing"])
    body = {"status": "approved", "label": pairing.label}
    if request.query.get("cookie") != "1":
        return json_answer(body | {"token": pairing.token})
    response = json_answer(body)
    set_cookie(request, response, pairing.token, DISPLAY_S)
    return response


async def list_pairings(request: web.Request) -> web.Response:
    """Say which screens wait; the codes stand on the screens only."""
    context = request.app[CONTEXT]
    now = context.clock.now()
    waiting = context.gate.pairings.waiting(now)
    return json_answer({"pairings": [{"address": item.address, "expiresIn": round(item.deadline - now)} for item in waiting]})


async def approve_pairing(request: web.Request) -> web.Response:
    """Let the screen that shows a code be a display: `{code, label, roles?}`."""
    context = request.app[CONTEXT]
    body = await read_object(request, ("code", "label", "roles"))
    code, label = text_field(body, "code", 6), text_field(body, "label", 100)
    roles = body.get("roles", ["display"])
    if not (len(code) == 6 and code.isdigit()):
        raise InvalidPayload("code: expected the six digits that the screen shows")
    pairing = context.gate.pairings.by_code(code, context.clock.now())
    given = await context.accounts.give("DISPLAY", label, roles, label=label, lifetime_s=DISPLAY_S)
    if pairing.token:
        raise BadRequest("the screen was approved a moment ago")
    pairing.label, pairing.token = label, given["token"]
    return json_answer({name: given[name] for name in ("id", "user", "roles", "expires_at")}, status=201)
