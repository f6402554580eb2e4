"""Data sets on hubs: laid out as there, streamed or not, from the cache, and what is said when one cannot be had."""

from __future__ import annotations

import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlab.data.sources import hub
from ftlab.data.sources.blocks import Row
from ftlab.data.sources.hub import Hub
from ftlab.errors import DataError

ROWS = [{"question": "2 + 2?", "answer": "4"}, {"question": "a", "answer": None}, {"question": "é", "answer": "😀"}]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(location, size=1000):
    return [row for block in location.blocks(size) for row in block.rows()]


def values(location):
    return [row.value for row in read(location)]


def text(error) -> str:
    return str(error.value)


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """A folder laid out as data sets are on the hub, and an empty cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "owner" / "quiz"
    tables = {"train": ROWS, "validation": ROWS[:1]}
    (folder / "data").mkdir(parents=True)
    for split, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    pq.write_table(pa.table({"text": ["more"]}), folder / "more.parquet")
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in tables)
    more = "- config_name: extra\n  data_files: more.parquet\n"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: plain\n  default: true\n  data_files:\n{files}{more}---\n"
    )
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_on_a_hub(on_hub, streaming, capfd):
    location = Hub(str(on_hub), streaming=streaming)
    for size in (1, 2, 1000):
        blocks = list(location.blocks(size))
        assert [row for block in blocks for row in block.rows()] == [Row(n, row) for n, row in enumerate(ROWS, 1)]
        assert [list(block.ordinals) for block in blocks][-1][-1] == 2
        assert {block.file for block in pickle.loads(pickle.dumps(blocks))} == {f"hf://{on_hub}, train"}
    assert location.count() == 3 and (location.size() is None) == streaming
    assert values(Hub(str(on_hub), split="validation", streaming=streaming)) == ROWS[:1]
    assert values(Hub(str(on_hub), subset="extra", streaming=streaming)) == [{"text": "more"}]
    assert len(location.fingerprint()) == 4 and location == pickle.loads(pickle.dumps(location))
    before = location.fingerprint()
    pq.write_table(pa.table({"text": ["other"]}), on_hub / "more.parquet")
    changed = {Path(file).name for file, value in location.fingerprint().items() if before[file] != value}
    assert changed == {"more.parquet"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (
            {"split": "tset"},
            "cannot be loaded: no split \"tset\". Should be one of ['train', 'validation'] (data.hub.split).",
        ),
        ({"subset": "extr"}, "BuilderConfig 'extr' not found. Available: ['plain', 'extra'] (data.hub.subset)."),
    ],
)
def test_a_part_that_a_set_has_not(on_hub, location, said):
    with pytest.raises(DataError) as caught:
        Hub(str(on_hub), **location).count()
    assert text(caught).startswith(f"hf://{on_hub}, ") and text(caught).endswith(said)


def test_a_set_that_cannot_be_loaded(on_hub):
    (on_hub / "data" / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    for streaming in (False, True):
        with pytest.raises(DataError, match=rf"^hf://{on_hub}, train: cannot be loaded: .*\S$"):
            read(Hub(str(on_hub), streaming=streaming))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, and a hub cache of the test's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:1")
    return tmp_path / "hub"


def test_a_set_that_was_never_downloaded(offline):
    began = time.monotonic()
    for use in (read, lambda location: location.count(), lambda location: location.fingerprint()):
        with pytest.raises(DataError) as caught:
            use(Hub("owner/far", revision="v1"))
        assert text(caught) == (
            f"hf://owner/far, train: is not in the cache {offline} of revision v1, and the hub cannot be reached. On "
            "a machine with a network: hf download --repo-type dataset owner/far --revision v1 (HF_HOME moves the "
            "cache). Or give files of your own: data.path=FILE"
        )
    assert time.monotonic() - began < 5


def test_a_set_that_hf_download_left_in_the_cache(offline, on_hub):
    """It is read without a network, and its fingerprint is its commit."""
    cached = offline / "datasets--owner--quiz"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    (cached / "snapshots").mkdir()
    on_hub.rename(cached / "snapshots" / COMMIT)
    location = Hub("owner/quiz")
    assert values(location) == ROWS
    assert location.fingerprint() == {"hf://owner/quiz, train": COMMIT}
    with pytest.raises(DataError, match="of revision other"):
        Hub("owner/quiz", revision="other").count()


@pytest.fixture
def answering(offline, monkeypatch):
    """A hub that answers each request alike."""
    from huggingface_hub import constants

    class Answer(BaseHTTPRequestHandler):
        status, code = 404, ""

        def do_GET(self):
            self.send_response(self.status)
            self.send_header("X-Error-Code", self.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_):
            pass

        def stop():
            server.shutdown()
            server.server_close()

    server = ThreadingHTTPServer(("localhost", 0), Answer)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://localhost:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Answer
    Answer.stop()
    thread.join()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (
            404,
            "RepoNotFound",
            "there is no such data set on the hub, or it is private: check the name, or set HF_TOKEN.",
        ),
        (403, "GatedRepo", "is gated: accept its licence on the hub, and set HF_TOKEN."),
        (404, "RevisionNotFound", "has no revision 'v1' (data.hub.revision)."),
        (418, "", "cannot be loaded: Client error '418 I'm a Teapot'"),
    ],
)
def test_what_the_hub_answers(answering, status, code, said):
    answering.status, answering.code = status, code
    for use in (Hub.count, Hub.fingerprint):
        with pytest.raises(DataError) as caught:
            use(Hub("owner/quiz", revision="v1"))
        assert text(caught).startswith(f"hf://owner/quiz, train: {said}") and "\n" not in text(caught)


def test_a_hub_that_goes_away(answering):
    from huggingface_hub import constants

    assert hub.is_reachable(constants.ENDPOINT)
    answering.stop()
    with pytest.raises(DataError) as caught:
        Hub("owner/gone").count()
    assert text(caught) == "hf://owner/gone, train: cannot be loaded: [Errno 111] Connection refused"


def test_modelscope_needs_its_package():
    try:
        import modelscope  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("modelscope is installed")
    with pytest.raises(DataError) as caught:
        Hub("owner/quiz", host="ms").count()
    assert text(caught) == (
        "ms://owner/quiz: data sets of ModelScope need its package: pip install modelscope. "
        "Or download the set and give its files: data.path=FOLDER"
    )
