"""What the service can be told, by environment variables: SERVE_ and a setting's name in capitals."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from detector.cores import thread_count
from detector.errors import UserError
from detector.places import model_folder
from detector.pool import MEGABYTES, SECONDS
from detector.released import DEFAULT
from detector.sources import MAX_BYTES, MAX_PIXELS

PREFIX = "SERVE_"  # not DETECTOR_: Kubernetes sets DETECTOR_PORT=tcp://... where a service is called detector
DAY = 86_400  # seconds: longer ones overflow in the system's timers


class Settings(BaseSettings):
    """docs/reference/http.md has this as a table, which a test compares with it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    models: Annotated[list[Path], NoDecode, Field(min_length=1, validate_default=True)] = [Path(DEFAULT)]
    host: str = "127.0.0.1"
    hosts: Annotated[list[str], NoDecode] = []
    port: int = Field(default=8000, ge=0, le=65_535)
    max_bytes: int = Field(default=20_000_000, ge=1, le=MAX_BYTES)
    max_files: int = Field(default=32, ge=1)
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=4 * MAX_PIXELS)
    decode_seconds: float = Field(default=SECONDS, gt=0, le=DAY, allow_inf_nan=False)
    decode_megabytes: int = Field(default=MEGABYTES, ge=16, le=1_000_000)
    max_requests: int = Field(default=64, ge=1)
    timeout: float = Field(default=30.0, gt=0, le=DAY, allow_inf_nan=False)
    batch_window: float = Field(default=2.0, ge=0, le=1000 * DAY, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    threads: int = Field(default_factory=thread_count, ge=1, le=10_000)

    @field_validator("models", "hosts", mode="before")
    @classmethod
    def split(cls, value: object) -> object:
        return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def is_there(cls, host: str) -> str:
        if not host.strip():  # the system takes it for all addresses
            raise ValueError("an address is missing: 0.0.0.0 for other machines, 127.0.0.1 for none")
        return host

    @field_validator("hosts")
    @classmethod
    def names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not re.fullmatch(r"[\w.-]+", host) and not is_ipv6(host):
                raise ValueError(f"{host!r} is more than a name: leave out the scheme, the port and brackets")
        return hosts

    @field_validator("models")
    @classmethod
    def places(cls, folders: list[Path]) -> list[Path]:
        """Return where the models are, also those that `fetch` brought, for all who read files of theirs."""
        if len({folder.name for folder in folders}) < len(folders):
            raise ValueError("two folders have the same name")
        return [model_folder(folder) for folder in folders]


def is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def from_environment() -> Settings:
    """Raises UserError for a value that cannot be, and for a SERVE_ variable that is none of the settings."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    if unknown := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        raise UserError(f"{', '.join(unknown)}: no such setting, there are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{PREFIX}{str(first['loc'][0]).upper()}={first['input']}: {reason}") from None
