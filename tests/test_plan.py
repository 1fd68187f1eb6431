"""What is told of devices that are not here: against programs whose collectives are known by hand,
and against the arrays that simulated devices hold."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, call, command, load_config

from experiments import devices
from experiments.plan import compiling, hlo, planning, programs, search, topology, traffic, words
from experiments.plan.programs import Settings
from wsdjax import families, models, tree
from wsdjax.config import Mesh
from wsdjax.models import attention
from wsdjax.probes import hessian
from wsdjax.probes.groups import Groups
from wsdjax.training.compiled import Compiled

TINY_LM = ROOT / "tests" / "configs" / "tiny_lm.py"


def planned(tmp_path, *arguments, config=TINY_LM, timeout=300):
    """The command in a process of its own, as a dict and as text."""
    out = tmp_path / "plan.json"
    done = subprocess.run(
        command("experiments.plan", f"--config={config}", f"--out={out}", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(out.read_text()), done.stdout


BY_HAND = """
import jax, sys
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from experiments.plan import hlo, traffic
mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))

def local(w, x):  # 3 micro-batches x 5 layers: a gather and a sum of each
    def part(total, x):
        def layer(x, w):
            whole = jax.lax.all_gather(w, "x", tiled=True)
            return jnp.tanh(x @ whole), None
        out, _ = jax.lax.scan(layer, x, w)
        grown = total + jax.lax.psum_scatter(out, "x", tiled=True)
        return grown, None
    total, _ = jax.lax.scan(part, jnp.zeros((2, 16)), x)
    turned = jax.lax.ppermute(total, "x", [(i, (i + 1) % 4) for i in range(4)])
    return jax.lax.psum(total.sum(), "x") + turned

given = {"in_specs": (P(None, "x"), P()), "out_specs": P("x"), "check_vma": False}
f = jax.jit(jax.shard_map(local, mesh=mesh, **given))
w, x = jnp.ones((5, 16, 16)), jnp.ones((3, 8, 16))
text = f.lower(w, x).compile().as_text()
program = hlo.Module.of(text)
assert not program.unknown
found = traffic.by_kind(traffic.collectives(program, 4))
assert {kind: tuple(each.values()) for kind, each in found.items()} == {
    "all-gather": (15, 15 * 16 * 16 * 4, 15 * 16 * 16 * 4 * 3 / 4),
    "reduce-scatter": (3, 3 * 8 * 16 * 4, 3 * 8 * 16 * 4 * 3 / 4),
    "all-reduce": (1, 4, 2 * 4 * 3 / 4),
    "collective-permute": (1, 2 * 16 * 4, 2 * 16 * 4),
}, found
"""


def test_collectives_are_counted_as_often_as_their_loops_run():
    """Of 5 layers in 3 micro-batches on 4 devices, by hand."""
    subprocess.run(
        [sys.executable, "-c", BY_HAND],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )


EIGHT = """
import json, os, sys
os.environ |= {"JAX_PLATFORMS": "cpu"}
import jax
jax.config.update("jax_num_cpu_devices", 8)
from helpers import load_config
from experiments.plan import __main__ as command, compiling
from wsdjax.training import state as states
from wsdjax.training.compiled import Compiled
from wsdjax import tree
from pathlib import Path
import numpy as np

config, out = sys.argv[1:3]
found = {}
for devices, more in (
    ("cpu:8", ["--probe=sharpness", "--branch=trunk"]),
    ("cpu:1", ["--branch=decay"]),
    ("v5e:2x4", ["--branch=decay", "--config.accumulate=16"]),
):
    code = command.main([f"--config={config}", f"--devices={devices}", f"--out={out}", *more])
    assert code == 0
    found[devices] = json.loads(Path(out).read_text())

# What the devices really hold of the same program.
groups = tree.groups(tree.resolve(load_config(Path(config))))
compiled = Compiled()
placed = compiled.placed(groups[0])
program = compiled.program(groups[0][0], placed)
seeds = np.asarray(groups[0][0].replicate_seeds, np.uint32)
averages = groups[0][0].averages
state = states.made(lambda s: states.create(program.model, s, averages), placed, seeds)
found["held"] = sum(
    shard.data.nbytes for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards
    if shard.device == jax.devices()[0]
)
Path(out).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Plans of a tiny tree for simulated devices, eight and one, and for a TPU's without its
    compiler; and the bytes of its state that one of eight devices holds."""
    directory = tmp_path_factory.mktemp("plans")
    config = directory / "lm.py"
    config.write_text(
        TINY_LM.read_text()
        .replace("257, 16, 2, 2", "256, 64, 2, 2")
        .replace("batch_size=8", "batch_size=16")
    )
    out = directory / "plan.json"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(config), str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(out.read_text()), done.stdout


def test_the_state_of_a_device_is_what_it_holds(eight):
    """Arguments of an update to the byte: the state, a part of the batch, the hyperparameters."""
    plans, _ = eight
    memory = plans["cpu:8"]["programs"][0]["memory"]
    batch, hyper = 2 * 2 * 16 * 16 * 4 // 8, 6 * 2 * 4
    assert memory["arguments"] == plans["held"] + batch + hyper
    made = plans["cpu:8"]["programs"][0]["initialisation"]["memory"]
    assert 0 <= made["outputs"] - plans["held"] < 1_024  # and where each of its arrays is


def test_the_state_falls_as_one_over_the_devices(eight):
    """All but biases and gains, the hyperparameters and what is a scalar."""
    plans, _ = eight
    one, eighth = (plans[name]["programs"][0]["memory"]["arguments"] for name in ("cpu:1", "cpu:8"))
    assert 0.125 * one <= eighth < 0.15 * one


def test_no_more_than_a_layer_is_gathered_at_a_time(eight):
    """The largest gather is a whole embedding, of two replicates, in two bytes or four."""
    plans, printed = eight
    gather = plans["cpu:8"]["largest_gather"]
    assert gather["a_layer"]
    assert gather["bytes"] in (2 * 256 * 64 * 2, 2 * 256 * 64 * 4)
    assert gather["shapes"][0].partition("[")[2] in ("2,256,64]", "2,64,256]")
    assert "no gather of more than a layer's weights at a time" in printed
    collectives = plans["cpu:8"]["collectives"]
    # Of 2 layers 6 kernels for each of two passes, embedding and head: XLA for CPUs gathers once
    # for all micro-batches.
    assert collectives["all-gather"]["count"] == 2 * 2 * 6 + 2
    assert plans["cpu:1"]["collectives"] == {}


def test_a_plan_has_what_its_readers_look_for(eight):
    plans, printed = eight
    plan = plans["cpu:8"]
    assert plan["fits"]
    assert plan["compiler"].startswith("XLA for CPUs")
    assert plan["seconds_per_update"] is None  # nothing is known of a CPU
    assert [branch["names"] for branch in plan["branches"]] == [["trunk"]]
    assert plan["branches"][0]["updates"] == 6
    assert plan["product"]["fits"]
    assert plan["product"]["examples"] == 2**15 // 16  # as a probe has them
    assert plan["product"]["at_a_time"] == 2**15 // 16
    assert "It fits." in printed


def test_a_remedy_is_found_and_a_stand_in_is_told(eight):
    """For a TPU's devices without its compiler; each of eight has two examples."""
    plans, printed = eight
    plan = plans["v5e:2x4"]
    if not importlib.util.find_spec("libtpu"):
        assert plan["simulated"]
        assert "since there is no libtpu here" in printed
    assert not plan["fits"]
    assert plan["remedy"]["flags"] == "--config.accumulate=1"
    assert "With --config.accumulate=1 it does." in printed
    program = plan["programs"][0]
    assert program["roofline"]["products"] > 0
    assert plan["seconds_per_update"] == max(
        program["roofline"][part] for part in ("products", "memory", "interconnect")
    )
    hours = plan["branches"][0]["hours"]
    assert hours == pytest.approx(6 * plan["seconds_per_update"] / 3_600)
    assert plan["device_hours"] == pytest.approx(8 * hours)


needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason='pip install "wsdjax[tpu]"'
)


@needs_libtpu
def test_a_small_step_is_compiled_for_a_tpu(tmp_path):
    """By the TPU's own compiler, for 8 chips and for one."""
    config = tmp_path / "lm.py"
    config.write_text(TINY_LM.read_text().replace("batch_size=8", "batch_size=16"))
    found, printed = planned(tmp_path, "--devices=v5e:2x4", "--branch=trunk", config=config)
    assert found["fits"]
    assert not found["simulated"]
    assert found["device_kind"] == "TPU v5 lite"
    assert "the TPU's own, libtpu" in printed
    assert found["largest_gather"]["a_layer"]
    program = found["programs"][0]
    assert program["unknown_loops"] == 0
    assert program["compilers_seconds_per_update"] > 0
    one, _ = planned(tmp_path, "--devices=v5e:1x1", "--branch=trunk", config=config)
    assert one["fits"]
    assert one["collectives"] == {}
    assert one["programs"][0]["memory"]["arguments"] > program["memory"]["arguments"]


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (51.75G) exceeds available HBM (15.48G).",
            51.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.20G of 15.75G hbm. "
            "Exceeded hbm capacity by 1.45G.",
            17.2 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Total hbm usage >= 20.5G", 20.5 * 2**30),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3000 bytes.", 3_000),
        ("RESOURCE_EXHAUSTED: no number", None),
    ],
)
def test_a_refusal_is_read_into_numbers(said, needed):
    told = compiling.ask("it", lambda: Lowered(said), ONE)
    assert told.needed == needed
    assert told.wrong(1e30) == said
    assert told.memory is None


class Lowered:
    def __init__(self, said):
        self.said = said

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.said)


def test_what_is_no_lack_of_memory_is_told_in_one_line():
    said = "INTERNAL: Mosaic failed\nto compile\n\na kernel"
    with pytest.raises(compiling.NotCompiled, match="refuses the program: INTERNAL: Mosaic failed"):
        compiling.ask("it", lambda: Lowered(said), ONE)


GIB = 2**30
V5E = devices.known("TPU v5 lite")
ONE = topology.Topology("v5e:1x1", jax.devices()[:1], V5E.kind, "", False, 16 * GIB, V5E)


def told(size):
    """Of a program of so many GiB, by the compiler of a device of 16."""
    if size is None or size > 16:
        return compiling.Told(1.0, size and size * GIB, "Ran out of memory")
    memory = dict(arguments=0, outputs=0, temporaries=size * GIB, code=0, counted=size * GIB)
    return compiling.Told(1.0, size * GIB, memory=memory)


def fake_compiler(monkeypatch, temporaries):
    """A compiler that asks for ``temporaries(settings)`` GiB."""
    tried = []

    def lowered(siblings, compiled):
        tried.append(Settings.of(siblings[0]))
        return tried[-1]

    monkeypatch.setattr(programs, "update", lowered)
    monkeypatch.setattr(search, "ask", lambda what, settings, _: told(temporaries(settings)))
    return tried


def searched(**changes):
    return search.search(group_of(**changes), Compiled(Mesh(), ONE.devices), ONE)


def group_of(**changes):
    config = load_config(TINY_LM)
    config.seeds = 1
    model = families.llama(vocabulary=64, width=16, layers=2, heads=2, hidden=32, **changes)
    config.model, config.batch_size, config.accumulate = model, 16, 1
    return tree.groups(tree.resolve(config))[0]


SHARE = {"none": 1.0, "dots": 0.5, "layers": 0.1}


def test_what_fits_first_is_what_costs_least(monkeypatch):
    """Activations are 100 GiB without remat in one micro-batch: what cannot fit even in proportion
    is not compiled, and less is rematerialised rather than more."""
    tried = fake_compiler(monkeypatch, lambda s: 100 * SHARE[s.remat] / s.accumulate)
    tries, taken = searched()
    assert taken is tries[-1]
    assert taken.fits
    assert [each.settings for each in tries] == tried
    assert tried[0] == Settings(1, "none")
    assert Settings(2, "none") not in tried  # 50 GiB, by proportion
    assert len(tried) <= 3
    assert 100 * SHARE[tried[-1].remat] / tried[-1].accumulate < 16


def test_what_leaves_room_is_taken_where_it_costs_little(monkeypatch):
    """With 8 micro-batches 15 GiB of 16; the last 5% of speed would not pay for twice as many."""
    sizes = {1: 120, 8: 15.0, 16: 8.0}
    tried = fake_compiler(monkeypatch, lambda s: sizes.get(s.accumulate, 99))
    monkeypatch.setattr(search, "REMAT", ("none",))
    for slower, wanted in ((0.001, 16), (1.0, 8)):
        seconds = lambda s, slower=slower: (1 + slower * s.accumulate / 8, s.accumulate)  # noqa: E731
        monkeypatch.setattr(search, "_expected", lambda *_, seconds=seconds: seconds)
        tried.clear()
        tries, taken = searched()
        assert taken.settings == Settings(wanted, "none")
        assert [each.settings.accumulate for each in tries] == [1, 8, 16][: len(tried)]


def test_a_config_that_fits_is_left_alone(monkeypatch):
    tried = fake_compiler(monkeypatch, lambda s: 15.5)
    assert searched(remat="dots")[1].settings == Settings(1, "dots")
    assert tried == [Settings(1, "dots")]


@pytest.mark.parametrize("floor", [17, None])
def test_the_search_ends_where_nothing_fits(floor, monkeypatch):
    """With a floor that no micro-batch takes away, or refusals without a number."""
    tried = fake_compiler(monkeypatch, lambda s: floor and floor + SHARE[s.remat] / s.accumulate)
    tries, taken = searched()
    assert taken is None
    assert not any(each.fits for each in tries)
    assert 1 < len(tried) <= 1 + search.TRIES


def test_it_fits_only_if_its_first_state_can_be_made(monkeypatch):
    """And a refusal without a number is no NaN."""
    fake_compiler(monkeypatch, lambda s: 2.0)
    monkeypatch.setattr(programs, "initialisation", lambda *_: None)
    monkeypatch.setattr(planning, "ask", lambda *_: told(None))
    found = planning.plan([group_of()], Mesh(), ONE, False)
    assert found["programs"][0]["tries"][0]["fits"]
    assert not found["fits"]
    assert found["remedy"] is None
    assert found["programs"][0]["initialisation"]["bytes_per_device"] is None
    text = "\n".join(words.words(json.loads(json.dumps(found, allow_nan=False))))
    assert "It fits." not in text
    assert "its first state cannot be made" in text
    assert "nan" not in text


def test_a_gather_of_more_than_a_layer_is_told():
    """Of 2 layers' kernels at once, and of one."""
    siblings = group_of()
    layer = programs.layer(siblings, Compiled(Mesh(), ONE.devices).placed(siblings))
    assert layer == 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16  # attention, MLP, two norms

    def gather(*shape):
        return traffic.Collective(traffic.GATHER_BY_SUM, 1, 0.0, (hlo.Array("f32", shape, True),))

    one = traffic.largest_gather([gather(16, 32)], layer)
    assert one == {"bytes": 4 * 16 * 32, "shapes": ["f32[16,32]"], "a_layer": True}
    assert not traffic.largest_gather([gather(16, 32), gather(3, 64, 16)], layer)["a_layer"]
    assert traffic.largest_gather([], layer) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("v9:2x2", "--devices=v9:2x2: no such devices; write v5e:16x16, v3:8x16"),
        ("h10", "did you mean"),
        ("v5e", "so many chips a side, v5e:4x4"),
        ("v4:64", "so many chips a side, v4:4x4x4"),
        ("v5e:0x4", "so many chips a side"),
        ("h100:two", "--devices=h100:two: write "),
        ("cpu:0", "--devices=cpu:0: write "),
        (None, "give the devices, such as --devices=v5e:16x16"),
    ],
)
def test_devices_that_are_none_are_told(given, said, monkeypatch):
    for name in (
        *("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"),
        *("TPU_STDERR_LOG_LEVEL", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"),
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that they are as before at the end
    flags = [] if given is None else [f"--devices={given}"]
    code, _, err = call("experiments.plan", f"--config={TINY_LM}", *flags)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_branch_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS", ""))
    code, _, err = call(
        "experiments.plan", f"--config={TINY_LM}", "--devices=cpu:1", "--branch=decoy"
    )
    assert code == 2
    assert "--branch=decoy: there is none" in err
    assert "decay" in err


def test_the_model_of_probes_has_the_products_of_the_plain_one(x64, monkeypatch):
    """Layers that are computed again, attention by blocks and examples two at a time change no
    number."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    config = families.llama(vocabulary=32, width=16, layers=2, heads=2, hidden=24, loss_chunk=8)
    plain, again = models.build(config), models.for_probes(config)
    assert again.config.attention == "blocks"
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), plain.init(jax.random.key(0)))
    random = np.random.default_rng(0)
    vector = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)
    tokens = random.integers(0, 32, (4, 9))
    batch = {"inputs": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    products = [
        hessian.batch_product.lower(model.loss, params, batch, vector, groups).compile(quick)
        for model, groups in ((plain, None), (again, Groups(2)))
    ]
    products = [product(params, batch, vector) for product in products]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *products)


def test_a_row_is_found_by_what_jax_calls_a_device():
    for kind, peak in (("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("NVIDIA H200", 989e12)):
        assert devices.known(kind).peak == peak
    assert devices.known("cpu") is None


TPU = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused.start (p.0: bf16[1,8,64]) -> (bf16[1,8,64], bf16[1,64,64]) {
  %p.0 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gather.1 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={1}, frontend_attributes={chain_id="0"}
  ROOT %begun = (bf16[1,8,64]{2,1,0}, bf16[1,64,64]{2,1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused.end (p.1: bf16[1,8,64]) -> bf16[1,64,64] {
  %p.1 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gather.2 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={1}, frontend_attributes={chain_id="0"}
  ROOT %ended = bf16[1,64,64]{2,1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%fused.row (p.2: f32[5,16,16], p.3: s32[]) -> f32[16,16] {
  %p.2 = f32[5,16,16]{2,1,0} parameter(0)
  %p.3 = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,16,16]{2,1,0} dynamic-slice(%p.2, %p.3, %zero, %zero), dynamic_slice_sizes={1,16,16}
  ROOT %flat = f32[16,16]{1,0} bitcast(%row)
}

%body (p.4: (s32[], f32[5,16,16], bf16[1,8,64], f32[64,64])) -> (s32[], f32[5,16,16], bf16[1,8,64], f32[64,64]) {
  %p.4 = (s32[]{:T(128)}, f32[5,16,16]{2,1,0}, bf16[1,8,64]{2,1,0:T(8,128)(2,1)S(1)}, f32[64,64]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.4), index=0
  %all = f32[5,16,16]{2,1,0} get-tuple-element(%p.4), index=1
  %part = bf16[1,8,64]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p.4), index=2
  %zeros = f32[64,64]{1,0:S(1)} get-tuple-element(%p.4), index=3
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %fusion.1 = (bf16[1,8,64]{2,1,0:S(1)}, bf16[1,64,64]{2,1,0:S(1)}) fusion(%part), kind=kCustom, calls=%fused.start
  %fusion.2 = bf16[1,64,64]{2,1,0:S(1)} fusion(%part), kind=kCustom, calls=%fused.end
  %fusion.3 = f32[16,16]{1,0:S(1)} fusion(%all, %i), kind=kLoop, calls=%fused.row, backend_config={"window_config":{"estimated_cycles":"100"}}
  %mine = f32[8,64]{1,0:S(1)} slice(%zeros), slice={[0:8], [0:64]}
  %placed = f32[64,64]{1,0:S(1)} dynamic-update-slice(%zeros, %mine, %i, %i)
  %whole = f32[64,64]{1,0:S(1)} all-reduce(%placed), channel_id=5, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %new = (s32[]{:T(128)}, f32[5,16,16]{2,1,0}, bf16[1,8,64]{2,1,0}, f32[64,64]{1,0}) tuple(%next, %all, %part, %whole)
}

%condition (p.5: (s32[], f32[5,16,16], bf16[1,8,64], f32[64,64])) -> pred[] {
  %end = s32[]{:T(128)} constant(5)
  %p.5 = (s32[]{:T(128)}, f32[5,16,16]{2,1,0}, bf16[1,8,64]{2,1,0}, f32[64,64]{1,0}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%p.5), index=0
  ROOT %goes_on = pred[]{:T(512)} compare(%at, %end), direction=LT
}

ENTRY %main (a: f32[5,16,16], b: bf16[1,8,64], c: f32[64,64]) -> f32[64,64] {
  %a = f32[5,16,16]{2,1,0} parameter(0)
  %b = bf16[1,8,64]{2,1,0:S(1)} parameter(1)
  %c = f32[64,64]{1,0:S(1)} parameter(2)
  %begin = s32[] constant(0)
  %copied = s32[]{:T(128)} copy(%begin)
  %all_in = (s32[]{:T(128)}, f32[5,16,16]{2,1,0}, bf16[1,8,64]{2,1,0}, f32[64,64]{1,0}) tuple(%copied, %a, %b, %c)
  %loop = (s32[]{:T(128)}, f32[5,16,16]{2,1,0}, bf16[1,8,64]{2,1,0}, f32[64,64]{1,0}) while(%all_in), condition=%condition, body=%body
  ROOT %out = f32[64,64]{1,0:S(1)} get-tuple-element(%loop), index=3
}
"""  # noqa: E501


def test_a_tpus_text_is_read():
    """Loops without a count beside them, a gather in two pieces, a gather in the form of a sum, and
    what is not in the device's memory at all."""
    program = hlo.Module.of(TPU)
    assert program.unknown == 0
    gather, by_sum = traffic.collectives(program, 8)
    assert (gather.kind, gather.times, gather.bytes) == ("all-gather", 5, 64 * 64 * 2)
    assert gather.received == 64 * 64 * 2 * 7 / 8
    assert (by_sum.kind, by_sum.times, by_sum.bytes) == (traffic.GATHER_BY_SUM, 5, 64 * 64 * 4)
    assert by_sum.received == 2 * 64 * 64 * 4 * 7 / 8
    # Five times a row of 16 x 16 and the counter, of which an addition makes the next.
    rows = 5 * (16 * 16 * 4)
    assert rows <= traffic.memory_bytes(program) <= rows + 400
    assert traffic.estimated_cycles(program) == 500
    unlike = TPU.replace("direction=LT", "direction=NE")
    assert hlo.Module.of(unlike).unknown == 1
