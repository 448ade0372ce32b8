"""The client for Python: topics with their state, questions, callbacks, messages (SPEC section 10).

from robodyne_rt.client import Client, Login
"""

from robodyne_rt.client.client import Answer, Client, StaffMessage
from robodyne_rt.client.errors import ClientError, LoginFailed, Refused, RequestFailed, Unreachable
from robodyne_rt.client.login import Login
from robodyne_rt.client.state import Change
from robodyne_rt.client.topic import Topic

__all__ = [
    "Answer",
    "Change",
    "Client",
    "ClientError",
    "Login",
    "LoginFailed",
    "Refused",
    "RequestFailed",
    "StaffMessage",
    "Topic",
    "Unreachable",
]
