"""The lesson's own scripts in node: training, map, ONNX file and words, held to Python, float64 and the stored page."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from lrdiff_bench.cli import main
from lrdiff_bench.lesson.data import AXIS, LessonOptions, lesson_data, problem
from lrdiff_bench.lesson.page import MODULES, WORKER, joined, lesson_page
from lrdiff_bench.lesson.studies import STORED, read_page
from lrdiff_bench.maps import MapRequest, compute_map, make_plan, open_map
from lrdiff_bench.stats.intervals import median_interval
from lrdiff_bench.stats.verdict import gain_verdict
from lrdiff_core import PRESETS, load_table, make_config, set_up, train
from lrdiff_core.population import PopulationOptions, population_task, train_population

ASSETS = STORED.parent
NODE = shutil.which("node")
EPS = float(np.finfo(np.float32).eps)
PAIRS = 50
CELLS = 12
TWINS = 4  # float64 trainings with the rounding of float32 put in, for each pair

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def in_node(script: str, **given: object) -> object:
    """Run a script with the lesson's modules as ``T`` (train), ``P``, ``J`` (judge), ``O`` (onnx), ``Q`` (pool)."""
    imports = "".join(
        f"const {name} = await import({json.dumps((ASSETS / file).as_uri())});\n"
        for name, file in zip("TPJOQ", MODULES, strict=False)
    )
    code = f"{imports}import fs from 'node:fs'; const given = JSON.parse(fs.readFileSync(0));\n{script}"
    command = [str(NODE), "--input-type=module", "-e", code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def task():
    return population_task(make_config({**PRESETS["seed"], "device": "cpu"}))


@pytest.fixture(scope="module")
def pairs() -> np.ndarray:
    """[pairs, 2]; the example's own, and others from 0.0001 to 0.3.

    Beyond that, one unit that rounding switches off may decide where a training ends; the map's test goes there.
    """
    drawn = 10 ** np.random.default_rng(0).uniform(-4, -0.5, (PAIRS - 1, 2))
    return np.vstack([[0.01, 0.001], drawn])


def train64(task, rates: np.ndarray, *, twins: int) -> np.ndarray:
    """Train in float64 with NumPy; losses [pairs, 1 + twins, epochs, 2] (training, validation).

    The first of each pair is exact. In the twins every weight, activation and slope is moved by up to half a unit in
    its last float32 place, at every step, as rounding moves it.
    """
    net, rows, random = task.model(0), task.rows(0), np.random.default_rng(1)

    def rounded(x: np.ndarray) -> np.ndarray:
        return x * (1 + noise * random.uniform(-1, 1, x.shape))

    rates = np.repeat(rates, 1 + twins, axis=0)[:, :, None, None]  # [members, 2, 1, 1]
    noise = np.tile([0.0] + [EPS / 2] * twins, len(rates) // (1 + twins))[:, None, None]
    weights = [p.detach().double().numpy() for p in net.parameters()]
    w = [np.repeat(x.reshape(1, -1, x.shape[-1] if x.ndim > 1 else 1), len(rates), axis=0) for x in weights]
    w[1], w[3] = w[1].transpose(0, 2, 1), w[3].transpose(0, 2, 1)  # biases [members, 1, units]
    first, second = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    parts = [(rows.inputs, rows.targets), (rows.held_inputs, rows.held_targets)]
    parts = [(x.double().numpy(), y.double().numpy()) for x, y in parts]
    inputs, targets = parts[0]
    order = np.frombuffer(base64.b64decode(problem(0)["order"]), "<u2").reshape(task.config.epochs, -1)
    losses, t = [], 0
    for epoch in order:
        for start in range(0, len(epoch), task.batch_size):
            batch = epoch[start : start + task.batch_size]
            x, y = inputs[batch], targets[batch]
            hidden = rounded(x @ w[0].transpose(0, 2, 1) + w[1])  # [members, batch, 5]
            active = np.maximum(hidden, 0)
            logit = rounded(active @ w[2].transpose(0, 2, 1) + w[3])
            slope = rounded((expit(logit) - y) / len(batch))
            back = rounded(slope @ w[2]) * (hidden > 0)
            gradients = [back.transpose(0, 2, 1) @ x, back.sum(1, keepdims=True),
                         slope.transpose(0, 2, 1) @ active, slope.sum(1, keepdims=True)]  # fmt: skip
            t += 1
            for i, g in enumerate(gradients):
                first[i] += (g - first[i]) * (1 - 0.9)
                second[i] = 0.999 * second[i] + (1 - 0.999) * g * g
                down = np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8
                w[i] = rounded(w[i] - rates[:, i // 2] * (first[i] / (1 - 0.9**t)) / down)
        seen = []
        for x, y in parts:
            logit = np.maximum(x @ w[0].transpose(0, 2, 1) + w[1], 0) @ w[2].transpose(0, 2, 1) + w[3]
            seen.append((np.logaddexp(0, logit) - logit * y).mean((1, 2)))
        losses.append(np.stack(seen, axis=1))
    return np.stack(losses, axis=1).reshape(-1, 1 + twins, len(order), 2)


def allowed(exact: np.ndarray, python: np.ndarray) -> np.ndarray:
    """What two float32 trainings may differ by at each epoch [pairs, epochs, 2]: derived from float64, never chosen.

    Four times what rounding has moved a float64 training, or Python's, by any epoch so far; at least 8 eps.
    """
    spread = np.abs(exact[:, 1:] - exact[:, :1]).max(axis=1)
    moved = np.maximum.accumulate(np.maximum(spread, np.abs(python - exact[:, 0])), axis=1)
    return np.maximum(8 * EPS * np.maximum(1, exact[:, 0]), 4 * moved)


@pytest.fixture(scope="module")
def here(pairs) -> np.ndarray:
    """Losses after every epoch in the lesson's own JavaScript, [pairs, epochs, 2]."""
    script = """
    const p = P.makeProblem(given.problem, {epochs: 10, batchSize: 25});
    console.log(JSON.stringify(given.pairs.map((pair) =>
      T.trainWithMetrics(p, ...pair).epochs.slice(1).map((e) => [e.train.loss, e.validation.loss]))));"""
    return np.array(in_node(script, problem=problem(0), pairs=pairs.tolist()))


@needs_node
def test_every_epoch_of_fifty_pairs_is_python_s(task, pairs, here):
    options = PopulationOptions(epochs=10, **task.options)
    found = train_population(task.model, {0: task.rows(0)}, pairs, 0, options)
    python = torch.stack([found.train_loss, found.held_loss], dim=2).double().numpy()
    budget = allowed(train64(task, pairs, twins=TWINS), python)
    share = np.abs(here - python) / budget
    assert share.max() <= 1, (pairs[share.max((1, 2)).argmax()], share.max())
    assert np.median(budget) < 1e-5  # a budget that nothing can break would test nothing
    assert (np.abs(1.001 * here - python) > budget).any(axis=(1, 2)).mean() > 0.9


@needs_node
def test_a_run_of_its_own_ends_alike(here):
    """The main job's ``train``, and not only a population of it."""
    config = make_config({**PRESETS["seed"], "device": "cpu"})
    seen = train(set_up(load_table("seed"), config)).observations
    for part, name in enumerate(("train", "validation")):
        losses = [row.loss for row in seen if row.split == name]
        np.testing.assert_allclose(here[0, :, part], losses, rtol=0, atol=8 * EPS)


@needs_node
def test_a_map_is_that_of_lrdiff_map(task, tmp_path):
    plan = make_plan(MapRequest(workload="seed", size=CELLS, seeds=1))
    compute_map(plan, tmp_path / "map", workers=0)
    dataset = open_map(tmp_path / "map")
    python = dataset["loss"].values[:, :, 0].astype(np.float64)
    axes = [dataset[name].values for name in "xy"]
    script = """
    const p = P.makeProblem(given.problem, {epochs: 10, batchSize: 25}), axis = T.axis(...given.axis);
    const losses = new Array(axis.length ** 2);
    for (const {x, y} of Q.coarseToFine(axis.length)) losses[y * axis.length + x] = T.cell(p, axis[x], axis[y]);
    console.log(JSON.stringify({axis, losses}));"""
    found = in_node(script, problem=problem(0), axis=[*AXIS[:2], CELLS])
    for axis in axes:
        np.testing.assert_allclose(found["axis"], axis, rtol=1e-12)
    own = np.array(found["losses"]).reshape(CELLS, CELLS)
    rates = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    exact = train64(task, rates, twins=2)[:, :, :, 1:]
    there = np.repeat(python.reshape(-1, 1, 1), exact.shape[2], axis=1)  # the last epoch is all that a map keeps
    there[:, :-1] = exact[:, 0, :-1]
    budget = allowed(exact, there)[:, -1, 0].reshape(CELLS, CELLS)
    within = np.abs(own - python) <= budget
    calm = rates.max(axis=1).reshape(CELLS, CELLS) <= 0.3
    assert within[calm].all()
    assert within.mean() >= 0.97  # elsewhere one unit that rounding switches off may decide where a training ends
    assert (budget < 1e-4).mean() > 0.6


@needs_node
def test_the_onnx_file_predicts_what_the_page_and_pytorch_predict(task):
    import onnx
    import onnxruntime

    script = """
    const p = P.makeProblem(given.problem, {epochs: 10, batchSize: 25}), w = T.train(p, 0.01, 0.001);
    const bytes = Buffer.from(O.onnxFile(w, p.mean, p.inverseStd, {"lrdiff.rates": "0.01 0.001"})).toString("base64");
    const row = (r) => T.follow(w, p.test.inputs.subarray(10 * r, 10 * r + 10)).probability;
    const answers = Array.from({length: 150}, (_, r) => row(r));
    console.log(JSON.stringify({bytes, weights: [...w], rows: [...p.test.raw], answers}));"""
    found = in_node(script, problem=problem(0))
    content = base64.b64decode(found["bytes"])
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"lrdiff.rates": "0.01 0.001"}
    rows = np.array(found["rows"], np.float32).reshape(-1, 10)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probability"], {"rows": rows})
    net = task.model(0)
    torch.nn.utils.vector_to_parameters(torch.tensor(found["weights"]), net.parameters())
    with torch.no_grad():
        expected = net.double().predict(torch.from_numpy(rows).double()).numpy()
    for got in (answers, np.array(found["answers"])[:, None]):
        np.testing.assert_allclose(got, expected, rtol=0, atol=32 * EPS)
    assert expected.std() > 0.2


@needs_node
def test_intervals_and_verdicts_are_those_of_the_project():
    random = np.random.default_rng(0)
    samples = [random.normal(mean, 0.02, n).tolist() for n in range(1, 31) for mean in (-0.04, 0.0, 0.03)]
    script = """console.log(JSON.stringify(given.samples.map((s) => {
      const found = J.medianInterval(s);
      return [...found, J.verdict(found, 0.01, s.length)]; })));"""
    for sample, (middle, low, high, word) in zip(samples, in_node(script, samples=samples), strict=True):
        expected = median_interval(sample)
        assert (middle, low, high) == pytest.approx(expected[:3], abs=1e-15)
        assert word == (gain_verdict(low, high, 0.01) if len(sample) >= 12 else "INCONCLUSIVE")


@pytest.fixture(scope="module")
def answered():
    """The three answers for planted gains: what the pair ends with, against a single rate that ends at 0.30."""
    script = """
    const falling = (end, from) => Array.from({length: 11}, (_, i) => (i < from ? 0.7 : end));
    const single = Array.from({length: 20}, () => ({test: 0.3, losses: falling(0.3, 5)}));
    const out = given.cases.map(([gain, from, spread, seeds]) => {
      const pair = single.map((s, i) => ({test: 0.3 - gain - spread * (i % 2 ? 1 : -1), losses: falling(0.3, from)}));
      const own = J.compare(pair.slice(0, seeds), single.slice(0, seeds), 0.01);
      const facts = {own, tuned: own, rates: [0.02, 0.003], tunedRates: [0.02, 0.003], tunedSeeds: 10,
        single: 0.008, seeds, seed: 0, tried: 3, map: null, axis: [1], studies: given.studies, smallest: 0.01};
      return J.answers(facts);
    });
    console.log(JSON.stringify(out));"""
    cases = [(0.05, 3, 0.0, 20), (-0.05, 8, 0.0, 20), (0.0, 5, 0.001, 20), (0.0, 11, 0.03, 20), (0.05, 3, 0.0, 11)]
    return in_node(script, cases=cases, studies=json.loads(STORED.read_text("utf-8"))["studies"])


@needs_node
@pytest.mark.parametrize(
    ("case", "end", "speed"),
    [
        (0, "HELPS", "Yes"),
        (1, "HURTS", "slower"),
        (2, "NO DIFFERENCE", "as many epochs"),
        (3, "INCONCLUSIVE", "slower"),
        (4, "INCONCLUSIVE", "Yes"),
    ],
)
def test_answers_follow_from_the_numbers(answered, case, end, speed):
    why, faster, better = answered[case]
    assert end in better["here"][0]
    assert speed in faster["answer"]
    assert end in why["answer"] or end == "HELPS"
    assert ("12 seeds or more" in better["here"][-1]) is (case == 4)
    studies = json.loads(STORED.read_text("utf-8"))["studies"]
    helped = sum(study["verdict"] == "HELPS" for study in studies)
    assert f"help on {helped} of {len(studies)} workloads" in why["studies"][0]
    for answer in answered[case]:  # no sentence without a number, and none that a number broke
        for sentence in [*answer["here"], *answer["studies"]]:
            assert re.search(r"\d", sentence)
            assert not re.search(r"NaN|undefined|null|\bnot finite", sentence), sentence


@needs_node
def test_remarks_of_the_epoch_table():
    cases = {
        (0.8, 0.6): "fell 25.0 %: learning patterns",
        (0.5, 0.48): "fell 4.0 %: steady",
        (0.5, 0.49): "fell 2.0 %: converging",
        (0.5, 0.499): "fell 0.2 %: stable",
        (0.5, 0.502): "rose 0.4 %: stable",
        (0.5, 0.6): "rose 20.0 %: getting worse",
        (0.5, None): "not finite: diverged",
    }
    script = "console.log(JSON.stringify(given.cases.map(([a, b]) => J.remark(a, b ?? NaN))))"
    assert in_node(script, cases=list(cases)) == list(cases.values())


def test_the_stored_studies_are_those_of_the_page():
    page = Path(__file__).parents[2] / "docs" / "results" / "convergence.md"
    stored, written = json.loads(STORED.read_text("utf-8")), read_page(page.read_text("utf-8"))
    assert stored == written, f"python -m lrdiff_bench.lesson.studies {page}"
    for study in stored["studies"]:
        better = (study["single"] - study["differential"]) * (1 if study["metric"] == "loss" else -1)
        if study["verdict"] in ("HELPS", "HURTS"):
            assert math.copysign(1, better) == math.copysign(1, study["gain"][0])


@pytest.fixture(scope="module")
def page() -> str:
    return lesson_page(lesson_data(LessonOptions(seeds=1)), command="lrdiff lesson <b>", docs="https://example.org/d/")


def test_the_page_is_one_file_that_needs_no_other(page):
    assert not re.search(r"(?:src|href)=\"(?!#|https://example\.org/d/(?:results|guide)/)", page)
    assert "lrdiff lesson &lt;b&gt;" in page
    policy = re.search(r'content="(default-src[^"]+)"', page)
    assert policy is not None
    assert "unsafe" not in policy[1]
    assert len(page.encode()) < 400_000


@needs_node
@pytest.mark.parametrize("modules", [MODULES, WORKER])
def test_the_joined_modules_are_one_script(modules, tmp_path):
    """A name that two modules have, or an import left over, is a syntax error."""
    file = tmp_path / "joined.mjs"
    file.write_text(joined(modules), encoding="utf-8")
    assert not re.search(r"^(?:import|export)\b", file.read_text("utf-8"), flags=re.MULTILINE)
    done = subprocess.run([str(NODE), "--check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_number_of_seeds_is_refused(capsys, tmp_path):
    assert main(["lesson", "--seeds", "0", "--out", str(tmp_path / "a.html")]) == 2
    assert "seeds is 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
