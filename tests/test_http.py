"""What the service answers to requests that are well-formed, and unusual."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Server, files, make_model, refused, sample

PICTURE = sample(2)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "weighing")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model) as running:
        yield running


def test_a_slash_too_many_is_a_404_and_leads_nowhere_past_the_proxy(server: Server) -> None:
    response = server.client.post("/v1/predict/", files=files(PICTURE))
    assert refused(response, 404) == "there is nothing at /v1/predict/"
    for path in ("/healthz/", "/static", "/v1/models/"):
        response = server.client.get(path)
        refused(response, 404)
        assert "location" not in response.headers
