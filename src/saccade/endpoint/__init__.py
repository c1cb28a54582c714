"""A client of any OpenAI-compatible chat server, for the judge, teachers, evaluation and remote rollouts."""

from __future__ import annotations

from saccade.endpoint.cache import ReplyCache
from saccade.endpoint.client import Endpoint, RequestLimits
from saccade.endpoint.errors import EndpointError
from saccade.endpoint.messages import ChatChoice, ChatResponse, Message, Usage, image_url, user

__all__ = [
    "ChatChoice",
    "ChatResponse",
    "Endpoint",
    "EndpointError",
    "Message",
    "ReplyCache",
    "RequestLimits",
    "Usage",
    "image_url",
    "user",
]
