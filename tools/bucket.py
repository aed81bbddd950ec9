"""Ask a remote's bucket whether it answers, within ten seconds: one line says what is wrong.

    python -m tools.bucket          the remote gcs; another one: python -m tools.bucket NAME

`dvc pull` and `dvc push` try again for a minute where nobody answers, and end in a page of traceback: so
`python -m tools.bucket && dvc pull -r gcs`.
"""

import argparse
import os
from urllib.parse import quote, urlsplit

import fsspec.config
import google.auth
import requests
from dvc.repo import Repo
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession

from detector.errors import UserError, run

SECONDS = 4  # for the credentials, and again for the answer
LOGIN = "`gcloud auth application-default login`, or `dvc remote modify --local NAME credentialpath KEY.json`"
PAY = """export FSSPEC_GCS='{"requester_pays": "PROJECT"}'"""  # what DVC's way to the bucket reads
MEANINGS = {
    401: f"no credentials that it accepts: {LOGIN}",
    403: "these credentials may not read it: its owner gives roles/storage.objectViewer, or use your own bucket",
    404: "there is no such bucket: see `dvc remote list`",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bucket", description=__doc__.splitlines()[0])
    parser.add_argument("remote", nargs="?", default="gcs", help="its name (default: %(default)s)")
    name = parser.parse_args().remote
    with Repo() as repo:
        remotes = repo.config["remote"]
    if name not in remotes:
        raise UserError(f"there is no remote {name}, but {', '.join(remotes)}")
    remote = remotes[name]
    address = urlsplit(remote["url"])
    if address.scheme not in ("gs", "gcs"):
        raise UserError(f"the remote {name} is {remote['url']}, no bucket of Google Cloud Storage")
    endpoint = remote.get("endpointurl", "https://storage.googleapis.com").rstrip("/")
    session = session_of(remote)
    url = f"{endpoint}/storage/v1/b/{quote(address.netloc)}/o"
    params = {"maxResults": "1", "prefix": address.path.strip("/")}
    if payer := fsspec.config.conf.get("gcs", {}).get("requester_pays"):
        params["userProject"] = payer
    try:
        answer = session.get(url, params=params, timeout=SECONDS)
    except TransportError:
        raise UserError(
            f"{remote['url']}: who checks the credentials does not answer: no network, or a proxy (HTTPS_PROXY)"
        ) from None
    except GoogleAuthError as error:
        raise UserError(f"{remote['url']}: the credentials cannot be used ({error}): {LOGIN}") from None
    except requests.RequestException:
        raise UserError(
            f"{remote['url']}: {urlsplit(endpoint).netloc} does not answer: no network, or a proxy (HTTPS_PROXY)"
        ) from None
    if answer.status_code == 400 and "requester pays" in answer.text:
        raise UserError(f"{remote['url']}: who asks must pay for this bucket, and says with which project: {PAY}")
    if not answer.ok:
        meaning = MEANINGS.get(answer.status_code, f"it answers {answer.status_code}: try again later")
        raise UserError(f"{remote['url']}: {meaning}")
    print(f"{remote['url']} answers")


def session_of(remote: dict[str, str]) -> requests.Session:
    """Return a session with the credentials that DVC would use. Raises UserError where there are none."""
    if remote.get("allow_anonymous_login"):
        return requests.Session()
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")  # on other machines than Google's nobody answers there
    scopes = ["https://www.googleapis.com/auth/devstorage.read_only"]
    try:
        if path := remote.get("credentialpath"):
            credentials = google.auth.load_credentials_from_file(path, scopes=scopes)[0]
        else:
            credentials = google.auth.default(scopes=scopes)[0]
    except (GoogleAuthError, OSError):
        raise UserError(f"{remote['url']}: no credentials: {LOGIN}") from None
    return AuthorizedSession(credentials, refresh_timeout=SECONDS, max_refresh_attempts=1)


if __name__ == "__main__":
    run(main)
