"""`python -m proco_jax.knowledge` from words to a cost network, with a model on loopback."""

import json
import re
from pathlib import Path

import pytest
from small_run import finish

from proco_jax.knowledge.replay import Answer, Answerer, completion, serve

pytestmark = pytest.mark.slow

KEY = "sk-test-0123456789abcdef"
RULE = json.dumps({"rule": "nearest(hazards_lidar) <= 0.2 m", "explanation": "on a hazard"})


def writes_the_rule(request: dict) -> Answer:
    return completion(RULE)


def labels_states(request: dict) -> Answer:
    """Reads the distance to the nearest hazard out of the words, as a model would."""
    text = request["messages"][1]["content"].split("<states>")[1].split("</states>")[0]
    near = [
        float((re.search(r"hazards_lidar: nearest ([\d.]+) m", state) or [0, "9"])[1])
        for state in text.split("State ")[1:]
    ]
    labels = [{"state": i, "unsafe": d <= 0.2, "confidence": 0.9} for i, d in enumerate(near, 1)]
    return completion(json.dumps({"labels": labels}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the datasets, the compiled programs and the workdirs of the tests here."""
    return tmp_path_factory.mktemp("knowledge")


@pytest.mark.parametrize(
    ("labeller", "answer", "labels"),
    [("rule", writes_the_rule, 1000), ("states", labels_states, 96)],
)
def test_a_cost_network_comes_from_a_models_words(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    labeller: str,
    answer: Answerer,
    labels: int,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(answer) as address:
        changes = {
            "knowledge.model": "openai/test",
            "knowledge.api_base": address,
            "knowledge.labeller": labeller,
            "knowledge.states": "96",
            "knowledge.votes": "1",
            "cost.recall": "0.8",
            "cost.steps": "300",
        }
        done = finish("proco_jax.knowledge", home, labeller, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((home / labeller / "cost.json").read_text())
    assert (report["labeller"], report["model"]) == (labeller, "openai/test")
    assert report["labels"] == labels and report["calls"] > 0
    assert report["recall"] >= 0.8
    assert (home / labeller / "pictures" / "cost.png").stat().st_size
    for path in (home / labeller).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
