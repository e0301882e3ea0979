"""The command line: exit statuses, one clear line for bad input, JSON for tools."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import compiler.commands.compile
from compiler.cli import main
from tests.checkpoints import make_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def built(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "out"
    assert main(["compile", str(llama), "-o", str(output), "--variants", "webgpu-f32", "--context", "64"]) == 0
    return output


def test_compile_takes_every_option(llama: Path, tmp_path: Path) -> None:
    options = "--quant q8f16_1 --context 32 --variants webgpu-f32 --name other --mlc-shards --weights full"
    command = ["compile", str(llama), "-o", str(tmp_path / "out"), *options.split(), "--dump", str(tmp_path / "dump")]
    assert main(command) == 0
    model = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (model["id"], model["quantization"], model["context"]) == ("other", "q8f16_1", 32)
    assert (tmp_path / "dump").is_dir()


def test_inspect_prints_json(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(built), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    keys = {"id", "parameters", "weight_bytes", "kv_bytes_per_token", "context", "variants"}
    assert keys <= set(summary)
    assert summary["variants"]["webgpu-f32"]["prefill_dispatches"].keys() == {"64", "16", "8"}


def test_inspect_prints_text(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(built), "--verify"]) == 0
    output = capsys.readouterr().out
    assert "webgpu-f32: needs nothing beyond core WebGPU" in output
    assert "q4af16_g64" in output


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "no-such-thing"],
        ["compile", "org/model", "--quant", "q3"],
        ["compile", "org/model", "--context", "1"],
        ["compile", "org/model", "--context", "many"],
        ["compile", "org/model", "--variants", "webgl"],
        ["compile", "org/model", "--weights", "some"],
        ["compile"],
        ["inspect", "no-such-thing"],
        ["serve", "no-such-thing"],
        ["serve", "--port", "x"],
        ["bench"],
        ["bench", "no-such-thing"],
        ["bench", "no-such-thing", "--backend", "cuda"],
        ["bench", "no-such-thing", "--backend", "wasm", "--threads", "0"],
        ["bench", "no-such-thing", "--threads", "2"],
        ["bench", "no-such-thing", "--plot", "picture.gif"],
        ["no-such-command"],
        [],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_status_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(command)
    except SystemExit as error:  # argparse leaves by itself
        status = error.code if isinstance(error.code, int) else 1
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("wisp")


def test_a_busy_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        for command in (["serve", str(tmp_path)], ["demo", "-o", str(tmp_path / "demo")]):
            assert main([*command, "--port", str(port)]) == 2
            assert f"port {port}" in (line := capsys.readouterr().err)
            assert "PORT=" in line
    assert not (tmp_path / "demo").exists(), "found out before compiling"


def test_a_bug_is_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.commands.compile, "resolve_config", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # which Python turns into a traceback and status 1
        main(["compile", "org/model"])


def test_compiling_again_does_nothing_and_says_so(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile_it(*options: str) -> str:
        arguments = ["compile", str(llama), "-o", str(tmp_path / "out"), "--variants", "webgpu-f32", "--context", "32"]
        assert main([*arguments, *options]) == 0
        return capsys.readouterr().err.splitlines()[-1]

    assert "of weights" in compile_it()
    before = (tmp_path / "out" / "model.json").stat().st_ino
    assert compile_it().endswith("out: unchanged")
    assert (tmp_path / "out" / "model.json").stat().st_ino == before
    (tmp_path / "out" / "params_shard_0.bin").write_bytes(b"")
    assert "of weights" in compile_it(), "a file was damaged"
    assert "of weights" in compile_it("--force")
    assert "of weights" in compile_it("--scales", "absmax")
    assert json.loads((tmp_path / "out" / "model.json").read_text())["scales"] == "absmax"


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_an_interrupt_while_writing_leaves_nothing(llama: Path, tmp_path: Path, sent: str) -> None:
    program = (
        "import os, signal, sys, time, compiler.build; from compiler import cli\n"
        "def stop(*_):\n"
        f"    assert any(name.endswith('.partial') for name in os.listdir({str(tmp_path)!r}))\n"
        f"    os.kill(os.getpid(), signal.{sent})\n"
        "    time.sleep(60)\n"
        "compiler.sources.weights.quantize = stop\n"
        # A shell starts its background jobs with interrupts ignored, which a child would inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["compile", str(llama), "-o", str(tmp_path / "out"), "--variants", "webgpu-f32", "--context", "64"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "wisp: interrupted"
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_compiles_without_the_test_tools(llama: Path, tmp_path: Path) -> None:
    """torch and transformers belong to the tests alone; and --help is quick: it needs no TVM."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'pytest']));"
        "from compiler import cli; assert not {'tvm', 'wgpu'} & set(sys.modules); sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["compile", str(llama), "-o", str(tmp_path / "out"), "--variants", "webgpu-f32", "--context", "64"]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
