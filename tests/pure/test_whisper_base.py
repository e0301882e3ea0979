"""OpenAI's Whisper base, compiled to 8 bits: recordings become the words that transformers hears in 32."""

from pathlib import Path

import pytest

from compiler.build import build
from compiler.cli import main
from compiler.config import resolve_config
from tests.speech import checkpoint, golden_transcripts, recordings

HEARD = ("0870", "0930")  # the ends of the recordings' names: one of 7 seconds, one of 3


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whisper")
    source = checkpoint(directory)
    config = resolve_config(str(source), output=directory / "out", variants=["wasm-simd"], scales="absmax")
    return build(config)


def test_recordings_become_the_words_that_transformers_hears(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The language is detected. Seconds are those of the timestamps."""
    from tokenizers import Tokenizer

    files = [file for file in recordings() if file.stem.endswith(HEARD)]
    options = ["--model", str(artifact), "--format", "srt", "-o", str(tmp_path)]
    assert main(["transcribe", *map(str, files), *options]) == 0, capsys.readouterr().err
    tokenizer, first = Tokenizer.from_file(str(artifact / "tokenizer.json")), 50364
    assert len(files) == len(HEARD)
    for file in files:
        ids = golden_transcripts()[file.name]
        end = (ids[-1] - first) * 20
        text = tokenizer.decode([token for token in ids if token < first]).strip()
        clock = f"00:00:00,000 --> 00:00:{end // 1000:02d},{end % 1000:03d}"
        assert (tmp_path / f"{file.stem}.srt").read_text() == f"1\n{clock}\n{text}\n"
