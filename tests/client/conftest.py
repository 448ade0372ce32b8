"""Real servers for the clients, as the tests of the whole have them."""

from tests.e2e.conftest import start_server

__all__ = ["start_server"]
