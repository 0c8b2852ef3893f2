"""A model behind an OpenAI-compatible endpoint: where it is, how it is sampled, what it costs, and where its key is found."""

import os
import re
from typing import Any

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError, EndpointError
from amaru.synth.budget import Price

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Sampling(Config):
    """What is sent with a question; None is left to the server."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)

    @property
    def sent(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


class Endpoint(Config):
    """`Endpoint(url="http://localhost:8000/v1", model="small")`.

    key          the environment variable, in capitals, that holds the API key; the key itself is never written anywhere
    system       the system prompt
    concurrency  most calls under way at once; fewer while the endpoint pushes back
    timeout      seconds after which a call is given up, from its first byte to the last of its answer
    attempts     how often a call is tried that ends in an error, or in an answer that is of no use
    patience     seconds for which a call waits in all while the endpoint answers that it is busy (429), or takes no connection any more
    schemas      the endpoint keeps answers to a JSON schema (response_format); else they are read with patience
    seeds        the endpoint takes a seed: each attempt then has its own, which follows from the call
    price        for a million tokens; without it a budget of money is refused
    licence      under which its answers may be used, for the card
    """

    url: str
    model: str
    key: str | None = None
    system: str | None = None
    sampling: Sampling = Sampling()
    concurrency: int = Field(default=32, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=5, ge=1)
    patience: float = Field(default=600.0, gt=0)
    schemas: bool = False
    seeds: bool = True
    price: Price | None = None
    licence: str | None = None

    def check(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"The url of an endpoint begins with http:// or https://; got '{self.url}'.")
        if "@" in self.url.split("//", 1)[1].split("/", 1)[0]:
            raise ConfigError("A url is written to files, so it holds no password; name an environment variable in 'key'.")
        if self.key is not None and not VARIABLE.fullmatch(self.key):  # which is not repeated here: it may be the key itself
            raise ConfigError(f"'key' of {self.url} is no name of an environment variable (capitals, digits, _), such as WRITER_KEY.")

    def headers(self) -> dict[str, str]:
        """Raises `EndpointError` when the variable that should hold the key is empty."""
        if self.key is None:
            return {}
        if not (value := os.environ.get(self.key)):
            raise EndpointError(f"The environment variable {self.key}, which holds the key for {self.url}, is not set.")
        return {"Authorization": f"Bearer {value}"}
