"""A client of any OpenAI-compatible chat server, for the judge, teachers, evaluation and remote rollouts."""

from __future__ import annotations

from saccade.endpoint.cache import ReplyCache
from saccade.endpoint.client import Endpoint, Limits
from saccade.endpoint.errors import EndpointError
from saccade.endpoint.messages import Choice, Message, Reply, Usage, image_url, user

__all__ = [
    "Choice",
    "Endpoint",
    "EndpointError",
    "Limits",
    "Message",
    "Reply",
    "ReplyCache",
    "Usage",
    "image_url",
    "user",
]
