"""`/api/auth` and pairing: how people and screens come by their tokens (SPEC section 8)."""

import logging
from typing import Any

from aiohttp import web

from robodyne_rt.core.login_limits import Device
from robodyne_rt.core.pairing import PAIRING_S
from robodyne_rt.core.tickets import TICKET_S
from robodyne_rt.model.access import Principal, normal_name, source_of
from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Query
from robodyne_rt.protocol.errors import Forbidden, RateLimited, TokenInvalid, TokenMissing
from robodyne_rt.web.accounts import DISPLAY_S, LONGEST_S, Accounts, Grant
from robodyne_rt.web.authenticator import COOKIE, came_by_cookie, page_of
from robodyne_rt.web.body import json_answer
from robodyne_rt.web.context import CONTEXT, PRINCIPAL
from robodyne_rt.web.people import profile_fields

logger = logging.getLogger(__name__)

PAIRINGS_PER_MINUTE = 10


async def login(request: web.Request, body: http.Login) -> web.Response:
    """Give a user tokens."""
    context = request.app[CONTEXT]
    name = normal_name(body.user)
    if context.access.is_open or context.auth_mode == "oidc":
        where = "the issuer" if context.auth_mode == "oidc" else "nowhere: nobody is checked here"
        raise Forbidden(f"users log in at {where}")
    accounts, address = context.accounts, context.authenticator.address_of(request)
    source = source_of(address)
    device = _device(accounts, name, source, request)
    is_known = device is not Device.UNKNOWN
    if accounts.passwords.is_busy(is_known=is_known):
        raise RateLimited("too many logins at once", retry_after=2)
    attempt = context.authenticator.login_limits.begin(name, source, device, context.clock.now())
    try:
        grant = await accounts.log_in(name, body.password, label=body.device, source=source, is_known=is_known)
    except TokenInvalid:
        # A name that nobody bears may be a password that was typed into the wrong field.
        who = f"user {name!r}" if accounts.has_name(name) else "an unknown user"
        logger.warning("a login of %s from %s failed", who, address, extra={"action": "login_failed"})
        raise
    attempt.succeeded()
    return _granted(request, accounts, grant, cookie=body.cookie, is_login=True)


def _device(accounts: Accounts, name: str, source: str, request: web.Request) -> Device:
    """Return how a device that logs in is known to the account."""
    if accounts.is_device_known(name, request.cookies):
        return Device.KNOWN_BY_COOKIE
    return Device.KNOWN_BY_ADDRESS if accounts.is_place_known(name, source) else Device.UNKNOWN


async def refresh(request: web.Request, body: http.Refresh) -> web.Response:
    """Give new tokens for a refresh token; or, for a page, a short token beside its cookie."""
    context = request.app[CONTEXT]
    if body.refresh_token is not None:
        try:
            grant = await context.accounts.refresh(body.refresh_token)
        except TokenInvalid:
            context.authenticator.login_limits.wrong(source_of(context.authenticator.address_of(request)), context.clock.now())
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
    text = context.authenticator.tickets.issue(request[PRINCIPAL], origin=page_of(request), now=context.clock.now())
    return json_answer({"ticket": text, "expiresIn": TICKET_S}, status=201)


async def me(request: web.Request, query: Query) -> web.Response:
    """Say who the request is from, and what they may do."""
    principal = request[PRINCIPAL]
    response = json_answer(_who(principal) | {"mode": request.app[CONTEXT].auth_mode})
    if principal.is_anonymous and COOKIE in request.cookies:
        response.del_cookie(COOKIE, path="/")  # it is good no more, and no script can see it
    return response


def _who(principal: Principal) -> dict[str, Any]:
    return {
        "user": None if principal.is_anonymous else principal.label,
        "userId": None if principal.is_anonymous else principal.name,
        "roles": sorted(principal.roles),
        "rights": sorted(principal.rights | principal.place_rights),
        **profile_fields(principal),
    }


def _granted(request: web.Request, accounts: Accounts, grant: Grant, *, cookie: bool, is_login: bool = False) -> web.Response:
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
    if is_login:
        device, value = accounts.device_cookie(grant.name)
        set_cookie(request, response, value, LONGEST_S, name=device, path="/api/auth")
    if cookie:
        set_cookie(request, response, accounts.cookie(grant), grant.row_expires_at - request.app[CONTEXT].clock.wall())
    return response


def set_cookie(
    request: web.Request, response: web.Response, token: str, lifetime_s: float, *, name: str = COOKIE, path: str = "/"
) -> None:
    """Let a browser keep a token where no script can read it."""
    # A proxy in front of us may end the TLS; the browser's word about its page is as good.
    secure = request.secure or request.headers.get("Origin", "").startswith("https:")
    response.set_cookie(name, token, max_age=int(lifetime_s), path=path, httponly=True, samesite="Strict", secure=secure)


# -- pairing ---------------------------------------------------------------------------------------------------------


async def begin_pairing(request: web.Request, body: http.Empty) -> web.Response:
    """Give a screen six digits to show, and a secret to ask with whether somebody approved."""
    context = request.app[CONTEXT]
    address, now = context.authenticator.address_of(request), context.clock.now()
    verdict = context.pairing_limit.take(source_of(address), now)
    if verdict.retry_after:
        raise RateLimited("too many pairings", retry_after=round(verdict.retry_after, 1))
    secret, pairing = context.authenticator.pairings.begin(address=address, now=now)
    return json_answer({"pairing": secret, "code": pairing.code, "expiresIn": PAIRING_S}, status=201)


async def look_at_pairing(request: web.Request, query: http.PairingQuery) -> web.Response:
    """Tell a screen whether it was approved; then, once, its token: as a cookie where it asks `?cookie=1`."""
    context = request.app[CONTEXT]
    is_head = request.method == "HEAD"
    pairing = context.authenticator.pairings.look(request.match_info["pairing"], context.clock.now(), takes=not is_head)
    if not pairing.token:
        return json_answer({"status": "waiting", "code": pairing.code})
    body = {"status": "approved", "label": pairing.label}
    if is_head:
        return json_answer(body)
    if query.cookie != "1":
        return json_answer(body | {"token": pairing.token})
    response = json_answer(body)
    set_cookie(request, response, pairing.token, DISPLAY_S)
    return response


async def list_pairings(request: web.Request, query: Query) -> web.Response:
    """Say which screens wait; the codes stand on the screens only."""
    context = request.app[CONTEXT]
    now = context.clock.now()
    waiting = context.authenticator.pairings.waiting(now)
    return json_answer({"pairings": [{"address": item.address, "expiresIn": round(item.deadline - now)} for item in waiting]})


async def approve_pairing(request: web.Request, body: http.Approval) -> web.Response:
    """Let the screen that shows a code be a display."""
    context = request.app[CONTEXT]
    pairing = context.authenticator.pairings.by_code(body.code, context.clock.now())
    given = await context.accounts.give("DISPLAY", body.label, body.roles, label=body.label, lifetime_s=DISPLAY_S)
    context.authenticator.pairings.approve(pairing, label=body.label, token=given["token"])
    return json_answer({name: given[name] for name in ("id", "user", "roles", "expires_at")}, status=201)
