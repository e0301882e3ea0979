"""`wisp bench` without a device: which variant a backend takes, what it is held against, the tables and the picture."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from compiler.artifact.writer import Artifact
from compiler.bench.report import check_plot, print_report, write_plot
from compiler.bench.run import BACKENDS, backend_variants, bench, prefill_multiply_adds
from compiler.bench.shapes import SHAPES
from compiler.cli import main
from compiler.errors import WispError
from compiler.models import config_from_huggingface

GPU = {"name": "webgpu-f32", "backend": "webgpu"}
CPU = {"name": "wasm-simd", "backend": "wasm"}


def artifact(*variants: dict[str, str]) -> Artifact:
    return Artifact(Path("some"), {"weights": "tensor-cache.json", "variants": list(variants)}, {}, {})


def report(**changes: Any) -> dict[str, Any]:
    decode = [
        {"context": n, "tokens_per_second": rate, "bandwidth_share": 0.5} for n, rate in ((32, 196.3), (512, 150))
    ]
    prefill = [{"tokens": n, "tokens_per_second": 10 * n, "multiply_add_share": None} for n in (32, 2048)]
    return {
        "artifact": "some",
        "backend": "wasm",
        "variant": "wasm-simd",
        "adapter": "CPU, 2 threads, chromium 156",
        "threads": 2,
        "quantization": "q4f16_1",
        "weight_bytes": 1 << 20,
        "load": {"cold_s": 1.5, "warm_s": 0.5, "compile_s": 0.25, "compile_warm_s": None},
        "time_to_first_token_s": 0.125,
        "bandwidth": None,
        "multiply_adds": None,
        "steps": None,
        "sampling": None,
        "counters": {},
        "prefill": prefill,
        "decode": decode,
        "kernels": None,
        "skipped": ["kernels: only on WebGPU"],
        **changes,
    }


def test_a_backend_takes_the_variants_that_it_can_run() -> None:
    both = artifact(GPU, CPU)
    assert backend_variants(both, "native", None) == backend_variants(both, "browser", "webgpu-f32") == [GPU]
    assert backend_variants(both, "wasm", None) == backend_variants(both, "wasm", "wasm-simd") == [CPU]


@pytest.mark.parametrize(
    ("there", "backend", "variant", "line"),
    [
        ((GPU,), "wasm", None, "no variant for the CPU: got webgpu-f32, expected wasm-simd; compile it again"),
        ((CPU,), "native", None, "no WebGPU variant: got wasm-simd; use --backend wasm"),
        ((GPU, CPU), "browser", "wasm-simd", "does not run the variant wasm-simd; use --backend wasm"),
        ((GPU, CPU), "wasm", "webgpu-f32", "does not run the variant webgpu-f32; use --backend native or browser"),
        ((GPU,), "wasm", "wasm-simd", "no such variant: got wasm-simd, expected webgpu-f32"),
    ],
)
def test_a_missing_variant_is_said(there: Any, backend: Any, variant: str | None, line: str) -> None:
    with pytest.raises(WispError) as error:
        backend_variants(artifact(*there), backend, variant)
    assert line in str(error.value)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "wasm"])
def test_threads_are_for_the_cpu(backend: Any) -> None:
    with pytest.raises(WispError, match=f"--threads is for the CPU: got --backend {backend}, expected --backend wasm"):
        bench(Path("some"), backend=backend, threads=2)


def test_nothing_is_compiled_for_options_that_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compiler.commands.bench.choose_artifact", lambda *_: pytest.fail("it is compiled"))
    assert main(["bench", "--shape", "llama-tiny", "--threads", "2"]) == 2
    assert "--threads is for the CPU" in capsys.readouterr().err


def test_what_is_compiled_is_measured_without_tvm() -> None:
    """Which is too large for a machine that only measures."""
    imports = "from compiler.bench import report, run; from compiler.commands import bench"
    code = f"import sys; {imports}; print('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_device_times_of_programs_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"program": "decode", "alternative": name, "position": 512, "seconds": seconds}
        for name, seconds in (("own", 0.004), ("narrow", 0.003))
    ]
    rows.append({"program": "prefill_256", "alternative": "own", "position": 0, "seconds": 0.25})
    sampling = {"greedy": 1e-4, "top_p": 2e-4, "top_k_top_p": None}
    print_report(report(steps=rows, sampling=sampling))
    text = capsys.readouterr().out
    assert ["decode", "512", "4", "ms", "3", "ms"] in [line.split() for line in text.splitlines()]
    assert ["prefill_256", "0", "250", "ms"] in [line.split() for line in text.splitlines()]
    assert "greedy 0.1 ms, top_p 0.2 ms" in text


def test_multiply_adds_of_a_prompt() -> None:
    """Of Llama 3.2 1B: 60.8 million a token and layer; its 1.24 billion are those and the vocabulary."""
    config = config_from_huggingface(SHAPES["llama-3.2-1b"], 4096)
    layer = 2048 * (2048 + 2 * 512) + 2048 * 2048 + 3 * 2048 * 8192
    vocabulary = 128256 * 2048
    assert prefill_multiply_adds(config, 1) == 16 * (layer + 2 * 2048) + vocabulary
    # The last layer makes keys and values of every token, and the rest of one.
    pairs = 512 * 513 // 2
    below = 15 * (512 * layer + 2 * 2048 * pairs)
    last = 511 * 2 * 512 * 2048 + layer + 2 * 2048 * 512
    assert prefill_multiply_adds(config, 512) == below + last + vocabulary


def test_a_window_bounds_the_attention() -> None:
    shape = {**SHAPES["llama-tiny"], "model_type": "mistral"}
    full = config_from_huggingface({**shape, "sliding_window": None}, 512)
    windowed = config_from_huggingface({**shape, "sliding_window": 16}, 512)
    assert prefill_multiply_adds(windowed, 16) == prefill_multiply_adds(full, 16)
    saved = prefill_multiply_adds(full, 17) - prefill_multiply_adds(windowed, 17)
    assert saved == 2 * 2 * 256, "one pair less in each of two layers"


def test_the_tables_show_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report())
    text = capsys.readouterr().out
    for part in ("wasm-simd, wasm, on CPU, 2 threads", "from the network 1.50 s", "20,480", "196", "50.0%", "█"):
        assert part in text
    assert "kernels again" not in text
    assert "GB/s" not in text
    assert "of multiply-adds" not in text
    assert "left out: kernels: only on WebGPU" in text


def test_the_picture_has_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    write_plot(report(), path)
    texts = [node.text for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("196", "150", "320", "20,480", "Decode", "Prefill", "some, q4f16_1, wasm-simd (wasm)"):
        assert expected in texts
    first = path.read_bytes()
    write_plot(report(), path)
    assert path.read_bytes() == first, "the same figures, the same bytes"


def test_a_picture_of_one_panel(tmp_path: Path) -> None:
    write_plot(report(decode=[]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_said_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WispError, match=r"got plot\.bmp, expected a name with \.svg or \.png or \.pdf"):
        check_plot(tmp_path / "plot.bmp")
    with pytest.raises(WispError, match="the directory of --plot is not there"):
        check_plot(tmp_path / "nowhere" / "plot.svg")
    importing = builtins.__import__

    def without_matplotlib(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert main(["bench", "no-such-artifact", "--plot", str(tmp_path / "plot.svg")]) == 2
    line = capsys.readouterr().err
    assert line == (
        "wisp: --plot needs matplotlib, which is not installed; install it with: pip install 'wisp[bench]'\n"
    )


def test_backends_of_the_command_line_are_those_of_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "{" + ",".join(BACKENDS) + "}" in capsys.readouterr().out
