"""The benchmark for a bare machine with a GPU, rehearsed on SwiftShader: everything but the GPU and the time it has."""

from __future__ import annotations

import json
import lzma
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu import prepare, run
from tests.conftest import unavailable

TINY = prepare.HERE / "tiny.toml"
TOLERANCE = 1e-3  # of the largest logit, between alternatives


def test_rehearsal(tmp_path: Path) -> None:
    """Each phase gives all its figures; every alternative computes the logits of the plan's own kernels."""
    if not run.SWIFTSHADER.exists():
        unavailable("SwiftShader is missing; on Debian: apt-get install chromium")
    if not (prepare.DAWN / prepare.DAWN_BINARY).is_file():
        unavailable("Dawn for Node is missing; run make setup")
    folder, out = tmp_path / "bundle", tmp_path / "out"
    prepare.prepare(folder, [TINY], compress=False)
    command = [sys.executable, "-I", str(folder / "run.py"), "--rehearse", "--out", str(out), "--limit", "3000"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    results = json.loads((out / "results.json").read_text())
    ceilings, *plans = results["phases"]
    assert "SwiftShader" in ceilings["adapter"]["description"]
    rates = [value for name, value in ceilings.items() if name.endswith(("per_second", "dispatch_seconds"))]
    assert len(rates) >= 5
    assert all(value > 0 and math.isfinite(value) for value in rates)
    names = {"own", "narrow", "lanes"}, {"own", "narrow", "wide"}, {"own"}
    assert [set(plan["decode"]) for plan in plans] == list(names)
    for plan in plans:
        assert plan["left_out"] == []
        assert set(plan["sampling_seconds"]) == {"greedy", "top_p", "top_k_top_p"}
        assert {size for found in plan["prefill_seconds"].values() for size in found} == {"16"}
        for found in plan["decode"].values():
            assert set(found["device_seconds"]) == {"32", "512"}
            assert found["largest_logit"] > 0
            assert found["logits_off_by"] <= TOLERANCE
        assert sum(kernel["dispatches"] for kernel in plan["kernels"]["own"]) == plan["dispatches"]
        assert plan["phase"] in made.stdout
    assert "packed" in plans[0]["prefill_seconds"]


def test_what_was_compressed_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "node.xz").write_bytes(lzma.compress(b"#!/bin/sh\n"))
    node = run.unpack()
    assert node.read_bytes() == b"#!/bin/sh\n"
    assert node.stat().st_mode & 0o100
    before = node.stat().st_mtime_ns
    run.unpack()
    assert node.stat().st_mtime_ns == before


def test_a_machine_that_does_not_describe_its_driver_gets_a_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "ICD_FOLDERS", (tmp_path / "none",))
    written = run.drivers(rehearse=False)
    assert [json.loads(path.read_text())["ICD"]["library_path"] for path in written] == list(run.NVIDIA_LIBRARIES)
    described = tmp_path / "icd.d" / "nvidia_icd.json"
    described.parent.mkdir()
    described.write_text("{}")
    monkeypatch.setattr(run, "ICD_FOLDERS", (described.parent,))
    assert run.drivers(rehearse=False) == [described]


def test_a_phase_that_fails_is_named_and_has_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "broken.py").write_text("import sys; sys.exit('no adapter')")
    phase = run.Phase("broken", "broken.py", (), 1.0)
    result = run.run_phase(Path(sys.executable), phase, 60, few=True, icds=[])
    assert result == {"phase": "broken", "failed": "no adapter"}
    assert "broken: FAILED: no adapter" in run.table([result])
