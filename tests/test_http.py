"""What the service answers to requests that are well-formed, and unusual."""

from pathlib import Path

import pytest

from tests.serving import Server, files, make_model, refused, sample

PICTURE = sample(2)[0]


def test_a_slash_too_many_is_a_404_and_leads_nowhere_past_the_proxy(server: Server) -> None:
    response = server.client.post("/v1/predict/", files=files(PICTURE))
    assert refused(response, 404) == "there is nothing at /v1/predict/"
    for path in ("/healthz/", "/static", "/v1/models/"):
        response = server.client.get(path)
        refused(response, 404)
        assert "location" not in response.headers


def test_who_asks_by_an_unknown_name_is_told_what_serve_hosts_has_to_be(server: Server, model: Path) -> None:
    asked = {"Host": "Example.org:8196", "Origin": "https://example.org:8196"}
    said = refused(server.client.get("/v1/models", headers=asked), 421)
    assert said == "this service does not answer as 'example.org': name it in SERVE_HOSTS"
    said = refused(server.client.get("/v1/models", headers={"Host": "[::1"}), 421)
    assert said == "there is no name in Host: '[::1': send the one that the service is asked by"
    said = refused(server.client.post("/v1/predict", headers={"Origin": asked["Origin"]}), 403)
    assert said == "a page of https://example.org:8196 may not ask this service: name 'example.org' in SERVE_HOSTS"
    with Server(model, hosts="example.org, fe80::7,") as other:
        assert other.client.get("/v1/models", headers=asked).status_code == 200
        assert other.client.post("/v1/predict", files=files(PICTURE), headers=asked).status_code == 200
        assert other.client.get("/v1/models", headers={"Host": "[fe80::7]:80"}).status_code == 200


@pytest.mark.parametrize(
    ("accept", "is_drawn"),
    [
        ("image/png", True),
        ("image/*", True),
        ("image/png, */*", True),
        ("application/json;q=0.5, image/PNG", True),
        ("text/html, image/png; q=0.9, application/json;q=0.1", True),
        ("application/json, image/png;q=0.1", False),
        ("image/png;q=0", False),
        ("image/png;q=0, */*", False),
        ("application/json, image/png", False),
        ("*/*", False),
        ("image/pngx", False),
        ("", False),
    ],
)
def test_the_evidence_is_drawn_for_who_prefers_a_drawing(server: Server, accept: str, is_drawn: bool) -> None:
    response = server.client.post("/v1/explain", files=files(PICTURE), headers={"Accept": accept})
    assert response.headers["content-type"] == ("image/png" if is_drawn else "application/json")


def test_a_refusal_is_a_page_for_who_prefers_pages(server: Server) -> None:
    for accept, is_page in (("text/html, */*;q=0.8", True), ("application/json, text/html;q=0.1", False)):
        response = server.client.post("/", headers={"Accept": accept})
        assert response.status_code == 415
        assert response.headers["content-type"].startswith("text/html") == is_page


def test_a_method_that_is_not_possible_is_told_which_are(server: Server) -> None:
    for path, methods in (("/", "GET, HEAD, POST"), ("/healthz", "GET, HEAD"), ("/v1/predict", "POST")):
        response = server.client.put(path)
        refused(response, 405)
        assert response.headers["allow"] == methods


@pytest.mark.parametrize("asked", ["bytes=abc", "bytes=9999999-", "bytes=0-9", "bytes=0-1,5-9", "lines=1-"])
def test_files_are_answered_whole(server: Server, asked: str) -> None:
    for path in ("/", "/static/page.js"):
        response = server.client.get(path, headers={"Range": asked})
        assert response.status_code == 200
        assert response.content == server.client.get(path).content
        assert response.headers["accept-ranges"] == "none"


def test_the_description_says_the_limit_of_each_model(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", dataset="holidays")
    with Server(f"{model}, {other}") as server:
        said = server.client.get("/openapi.json").json()["info"]["description"]
        for one in server.client.get("/v1/models").json()["models"]:
            limit = server.ask(PICTURE, params={"model": one["name"]}).json()["limit"]
            assert f"`{one['name']}`: {limit}" in said
    with Server(other) as server:
        said = server.client.get("/openapi.json").json()["info"]["description"]
        assert "holidays" in said
        assert "CIFAR-10" not in said
