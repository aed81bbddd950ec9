"""The Hugging Face hub, through its own client, which brings logins, proxies and HF_ENDPOINT."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from detector.errors import UserError

try:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )
except ImportError:
    raise UserError("the hub takes its client: `pip install huggingface_hub`, or 'ai-art-detector[hub]'") from None

NETWORK: type[Exception] = HfHubHTTPError.__bases__[0]  # what the client's HTTP library raises, whichever it is
LOGIN = "`hf auth login`, or the variable HF_TOKEN, says who you are"


@contextlib.contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Raise what the hub's client raises, pages of text, as a UserError of one line; FileNotFoundError where OWNER/NAME
    has no such file."""
    try:
        yield
    except RemoteEntryNotFoundError:
        raise FileNotFoundError(f"a file of {repository}") from None
    except LocalTokenNotFoundError:
        raise UserError(f"the hub was not told who you are: {LOGIN}") from None
    except RepositoryNotFoundError:
        raise UserError(f"the hub has no model {repository} that you may see: {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = LOGIN if status in (401, 403) else "try again later"
        raise UserError(f"the hub answers {status} about {repository}: {advice}") from None
    except ValueError as error:  # of a name or a card that the hub would not take
        raise UserError(f"the hub takes no {repository}: {error}") from None
    except (OSError, RuntimeError, NETWORK) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # of this machine's disk
        raise UserError(
            f"the hub does not answer about {repository}, or broke off: no network, a proxy (HTTPS_PROXY), HF_ENDPOINT "
            "or HF_HUB_OFFLINE"
        ) from None


def open_hub(repository: str, scratch: Path, most: int) -> Callable[[str], BinaryIO]:
    """Return what downloads a file of OWNER/NAME, as it is now, into `scratch`, and opens it. It raises
    FileNotFoundError where there is none, and UserError, which this raises as well. most: bytes of a file."""
    with hub_errors(repository):
        info = HfApi().model_info(repository, files_metadata=True)
    commit = info.sha
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def open_file(path: str) -> BinaryIO:
        if sizes.get(path, 0) > most:
            raise UserError(f"{path} of {repository} has more than {most // 2**20:,} MB, which no model here has")
        with hub_errors(repository):
            return Path(hf_hub_download(repository, path, revision=commit, cache_dir=scratch)).open("rb")

    return open_file
