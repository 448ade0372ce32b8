"""Who sends a request: from its token, cookie or ticket, or from where it comes (SPEC section 8)."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from robodyne_rt.core import origins
from robodyne_rt.core.login_limits import LoginLimits
from robodyne_rt.core.origins import OriginKind, Origins
from robodyne_rt.core.pairing import Pairings
from robodyne_rt.core.tickets import Tickets
from robodyne_rt.model.access import AccessPolicy, Networks, Principal, host_of, source_of
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import BadRequest, Forbidden, TokenExpired, TokenInvalid
from robodyne_rt.web.jwt_tokens import Tokens

COOKIE = "robodyne"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing (RFC 9110 section 9.2.1)."""


def came_by_cookie(request: web.Request) -> bool:
    """Return whether a request says by its cookie, and by nothing else, who sends it."""
    return COOKIE in request.cookies and "Authorization" not in request.headers and not {"token", "ticket"} & set(request.query)


def page_of(request: web.Request) -> str | None:
    """Return the origin of the page that sends a request, in its one form; None where none is said."""
    said = request.headers.get("Origin")
    return said if said is None else str(origins.parse(said) or said)


def is_local(request: web.Request) -> bool:
    """Return whether a request came over the control socket, which only this machine's own user may open."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)


def asked_host(request: web.Request) -> str:
    """Return whom a request is for, with its port: an absolute target wins over the header (RFC 9112 section 3.2.2); what is
    before an `@` there is nobody's name (section 4.2.4 of RFC 9110)."""
    target = request.raw_path.partition("?")[0]
    if "://" in target:
        return re.split(r"[/?#\\]", target.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    return request.headers.get("Host", "")


class Authenticator:
    """Identifies who sends a request, and from where.

    Args:
        trusted_proxies: whose word is taken about where a request comes from.
        remember: told of an issuer's users.
    """

    def __init__(
        self,
        *,
        policy: AccessPolicy,
        tokens: Tokens,
        trusted_proxies: Networks,
        origins: Origins,
        remember: Callable[[Principal], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self.policy = policy
        self.tokens = tokens
        self.tickets = Tickets()
        self.pairings = Pairings()
        self.login_limits = LoginLimits()
        self._trusted_proxies = trusted_proxies
        self._origins = origins
        self._remember = remember
        self._clock = clock

    def origin_kind(self, request: web.Request) -> OriginKind:
        """Return whose page sends a request, whose Host must be checked."""
        # Not kept: it would be for as long as a WebSocket lives. Several lines of one name are one list (RFC 9110 section
        # 5.3), and a list is no origin.
        said = request.headers.getall("Origin", None)
        return self._origins.kind(", ".join(said) if said else None, host=asked_host(request))

    def address_of(self, request: web.Request) -> str:
        """Return the client's address."""
        address = request.remote or ""
        if address in self._trusted_proxies:
            # Each proxy appends, some of them as a line of its own: all lines together, the last word first.
            for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
                if hop := host_of(hop.strip()):
                    address = hop
                    if hop not in self._trusted_proxies:
                        break
        return address

    async def identify(self, request: web.Request, *, upgrades: bool = False) -> Principal:
        """Return who sends a request. A page of another site may bear a token; cookie and address count for nothing then.

        Args:
            upgrades: whether `?token=` and `?ticket=` are good here: for a WebSocket, and nothing else.
        Raises:
            TokenInvalid, TokenExpired: it bears something that is not good.
            Forbidden: a cookie without a word of which page sends it.
            BadRequest: it bears two things.
            RateLimited: too many bad tickets came from there.
        """
        if is_local(request):
            return self.policy.local
        address = self.address_of(request)
        found = await self._borne(request, address, upgrades)
        place = None if self.origin_kind(request) is OriginKind.FOREIGN else address
        if found is None:
            return self.policy.anonymous(place)
        await self._remember(found)
        return replace(found, place_rights=self.policy.place_rights(place))

    async def _borne(self, request: web.Request, address: str, upgrades: bool) -> Principal | None:
        query = request.query
        headers = request.headers.getall("Authorization", [])
        if len(headers) + len(query.getall("token", [])) + len(query.getall("ticket", [])) > 1:
            raise BadRequest("expected one token: in Authorization, as ?token= or as ?ticket=")
        if headers:
            scheme, _, token = headers[0].partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise TokenInvalid("expected Authorization: Bearer TOKEN")
            return await self.tokens.principal(token.strip())
        if "token" in query:
            found = await self.tokens.principal(query["token"])
            if not upgrades:  # an address is kept and passed on in many places
                raise TokenInvalid("?token= is for a WebSocket; send Authorization: Bearer TOKEN")
            return found
        if (ticket := query.get("ticket")) is not None:
            if not upgrades:
                raise BadRequest("a ticket is for a WebSocket")
            try:
                found = self.tickets.redeem(ticket, origin=page_of(request), now=self._clock.now())
                return self.tokens.renewed(found)
            except TokenInvalid:
                self.login_limits.wrong(source_of(address), self._clock.now())
                raise
        if cookie := request.cookies.get(COOKIE):
            return await self._of_cookie(request, cookie)
        return None

    async def _of_cookie(self, request: web.Request, cookie: str) -> Principal | None:
        """A cookie is sent by the browser, not by the page: only our own pages may act by it (PITFALLS H11)."""
        try:
            found = await self.tokens.principal(cookie)
        except (TokenInvalid, TokenExpired):
            return None  # a page cannot take an old cookie away: it must not shut out whom this place lets in
        upgrades = "Upgrade" in request.headers
        said = self.origin_kind(request) is not OriginKind.ABSENT or request.headers.get("Sec-Fetch-Site") == "same-origin"
        if (upgrades or request.method not in SAFE_METHODS) and not said:
            raise Forbidden("a cookie counts for this server's own pages only; send a token")
        return found
