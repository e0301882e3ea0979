"""An artifact on the Hugging Face Hub, with a card that says what it is. Knows the Hub and model.json.

The files arrive as one commit: whoever loads the artifact from the Hub has the former version or the new one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, errors

from ..artifact.inspect import task_of
from ..artifact.writer import MANIFEST, load_artifact
from ..errors import WispError
from ..progress import Report, human_bytes

# The identifiers that the Hub knows; what else a model says of its license is a name.
HUB_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0
grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0
other pddl postgresql unknown unlicense wtfpl zlib
"""
UNMEASURED = "Not measured (`wisp check ARTIFACT --reference SOURCE`)."


def publish_to_hub(artifact: Path, repo: str, report: Report, *, parity: Path | None = None) -> None:
    """Commits an artifact and its card to `repo`, which is made where it is missing. Raises WispError.

    `parity` is a file of `wisp check --json` for this very artifact.
    """
    loaded = load_artifact(artifact)
    if loaded.model["weights"] is None:
        raise WispError(f"{artifact} holds no weights", remedy="compile it without --weights none")
    card = model_card(loaded.model, _parity(parity, loaded.model["id"]) if parity is not None else None)
    operations = [CommitOperationAdd(name, artifact / name) for name in (*sorted(loaded.model["files"]), MANIFEST)]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="wisp")
    try:
        api.create_repo(repo, exist_ok=True)
        done = api.create_commit(repo, operations, commit_message=f"{loaded.model['id']} by Wisp")
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: of one file's upload
        raise WispError(
            f"the Hub does not take '{repo}'",
            got=str(error).strip().split("\n")[0],
            remedy="log in with `hf auth login` or set HF_TOKEN, as somebody who may write there",
        ) from error
    total = sum(entry["bytes"] for entry in loaded.model["files"].values())
    report.note(f"{done.commit_url}: {len(operations)} files, {human_bytes(total)}")


def model_card(model: Mapping[str, Any], parity: Mapping[str, Any] | None) -> str:
    """README.md: what the Hub reads of it, source and license, the weights' scheme, sizes, and how exact it is."""
    source, license_name = model["source"], model.get("license")
    names = {"embedding": "feature-extraction", "transcription": "automatic-speech-recognition"}  # the Hub's
    task = names.get(task_of(model), "text-generation")
    about: dict[str, Any] = {"library_name": "wisp", "pipeline_tag": task, "tags": ["webgpu", "wisp"]}
    if license_name is not None:
        known = license_name.lower()
        about |= (
            {"license": known} if known in HUB_LICENSES.split() else {"license": "other", "license_name": license_name}
        )
    if source["kind"] == "hub":
        about["base_model"] = "/".join(source["id"].split("/")[:2])  # behind them a file may be named
    return "\n".join(
        [
            "---",
            ModelCardData(**about).to_yaml(),
            "---",
            "",
            f"# {model.get('name') or model['id']}",
            "",
            "An artifact of Wisp: it runs in the browser on the visitor's GPU, or on the CPU.",
            "",
            *_facts(model),
            "",
            "## Parity",
            "",
            *([UNMEASURED] if parity is None else _measured(parity)),
            "",
        ]
    )


def _facts(model: Mapping[str, Any]) -> Iterator[str]:
    source = model["source"]
    revision = f" at `{source['revision']}`" if source.get("revision") else ""
    total = sum(entry["bytes"] for entry in model["files"].values())
    bits = 8 * model["weight_bytes"] / max(1, model["parameters"])
    rows = {
        "source": f"{source['kind']} `{source['id']}`{revision}",
        "license of the weights": model.get("license") or "not stated",
        "published at": model.get("homepage"),
        "parameters": f"{model['parameters']:,}",
        "quantization": f"`{model['quantization']}`, {bits:.2f} bits a weight",
        "weights": human_bytes(model["weight_bytes"]),
        "all files": human_bytes(total),
        "context": f"{model['context']:,} tokens",
        "variants": ", ".join(f"`{variant['name']}`" for variant in model["variants"]),
    }
    yield "| | |"
    yield "|---|---|"
    for what, value in rows.items():
        if value:
            yield f"| {what} | {value} |"


def _measured(parity: Mapping[str, Any]) -> Iterator[str]:
    cost = parity["quantization_error"]
    if parity.get("task") == "embedding":
        yield f"By `wisp check`: embeddings as stored are {cost['max_error']:.2g} from the source's (1 - cosine)."
        return
    perplexity = parity["perplexity"]
    yield f"By `wisp check`, {parity['evaluated_tokens']} tokens: perplexity of the source {perplexity['source']:.4g},"
    yield f"as stored {perplexity['stored']:.4g}; KL divergence {cost['kl_mean']:.3g} nats a token, the same"
    yield f"first choice at {100 * cost['top1_agreement']:.1f} % of them."
    yield ""
    yield "| variant | largest error of a logit | bound |"
    yield "|---|---:|---:|"
    for variant in parity["variants"]:
        if variant["status"] != "skipped":
            yield f"| `{variant['name']}` | {variant['max_error']:.2g} | {variant['bound']:.2g} |"


def _parity(path: Path, identifier: str) -> Mapping[str, Any]:
    """A report that passed. Raises WispError for another model's, and for one that is none."""
    try:
        report: Any = json.loads(path.read_bytes())
        artifact, passed = report["artifact"], report["passed"]
        "".join(_measured(report))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise WispError(
            f"{path} is no report of parity", got=str(error), expected="what `wisp check --json` prints"
        ) from error
    if artifact != identifier or passed is not True:
        raise WispError(f"{path} does not vouch for {identifier}", got=f"{artifact}, passed: {passed}")
    return report
