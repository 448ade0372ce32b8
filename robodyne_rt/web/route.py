"""What one path takes and answers: the row of the table in `routes.py`, read by the guard and by the contract."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from robodyne_rt.protocol.checking import Model, Query
from robodyne_rt.protocol.errors import RobodyneError

BODY_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One thing that can be asked of the server.

    Attributes:
        path: as aiohttp writes it.
        right: a word of `settings.RIGHTS`; `read` for the topic in the path; `user` for everybody who says who they are;
            `public`; or `socket`, where the handler decides after the handshake.
        handler: is given the request, and what `query` or `body` made of it.
        query, body: what is taken; None: nothing is looked at.
        body_bytes: bound of the body.
        answer: of a success; None where `content_type` says what it is instead.
        status: of a success.
        errors: meanings that an answer may have besides those that every request may meet.
    """

    method: str
    path: str
    right: str
    handler: Callable[..., Awaitable[web.StreamResponse]]
    query: type[Query] | None = None
    body: type[Model] | None = None
    body_bytes: int = BODY_BYTES
    answer: type[BaseModel] | None = None
    content_type: str = "application/json"
    status: int = 200
    errors: tuple[type[RobodyneError], ...] = ()


ROUTES = web.AppKey("routes", tuple[Route, ...])
