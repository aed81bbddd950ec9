"""What a picture's file says of itself: parsed from where it belongs, told apart from the answer, never believed."""

import sys
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from detector.claims import MOST, read_claims
from detector.pool import DecodingPool
from detector.preprocessed import Preprocessed
from tests.claims import CASES, PARAMETERS, XMP_KEYWORD, Case, chunk, packed_text, png, text, xmp


@pytest.fixture
def _without_c2pa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(1)
    yield pool
    pool.close()


@pytest.mark.usefixtures("_without_c2pa")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_file_says_what_is_in_its_place(case: Case) -> None:
    assert tuple(read_claims(case.data)) == case.claims


def test_claims_come_with_the_picture_and_change_nothing_else(pool: DecodingPool) -> None:
    cases = [case for case in CASES.values() if "C2PA" not in {claim.source for claim in case.claims}]
    plain, *answers = pool.preprocess([CASES["png of nothing"].data, *(case.data for case in cases)], 32)
    assert isinstance(plain, Preprocessed)
    for case, one in zip(cases, answers, strict=True):
        assert isinstance(one, Preprocessed), case.name
        assert tuple(one.claims) == case.claims
        if case.name.startswith("png"):
            assert (one.notes, one.pixels.tobytes()) == ([], plain.pixels.tobytes())


def test_what_a_file_may_say_is_bounded() -> None:
    """Of texts that unpack to gigabytes, of JSON and XMP nested deep, of very many claims, of long ones."""
    bombs = packed_text("parameters", bytes(2**26)), packed_text("prompt", b'{"a":' * 10**6)
    data = png(*bombs, text("Software", "x" * 10**6))
    tracemalloc.start()
    said = read_claims(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24
    assert [claim.source for claim in said] == ["PNG prompt", "PNG Software"]
    assert said[1].says == f"software: {'x' * 80}… (1,000,000 characters)"

    begun = time.process_time()
    nested = xmp('xmp:CreatorTool="GIMP"', elements="<a>" * 60_000)
    assert [claim.says for claim in read_claims(png(chunk(b"iTXt", XMP_KEYWORD + nested)))] == ["software: GIMP"]
    assert time.process_time() - begun < 2, "a decoding worker has five seconds"

    fields = "parameters prompt workflow Dream sd-metadata invokeai_metadata Software Description Comment Title".split()
    said = read_claims(png(*(text(field, f"{field}, made with ComfyUI\n{PARAMETERS}") for field in fields)))
    assert len(said) == MOST < len(fields)
