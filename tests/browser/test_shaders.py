"""The f32 variants' WGSL compiles in Chromium under the default limits: the embedded model and real shapes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from compiler.kernels.webgpu.tuning import ALTERNATIVES, PACKED
from compiler.lowering.lower import Lowered
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.device.test_every_scheme import CHUNK, CONTEXT, described
from tests.device.test_limits import MODELS, architecture
from tests.lowering import lower_once

COMPILE = """async ([source, entries, features]) => {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice({ requiredFeatures: features });
  const module = device.createShaderModule({ code: source });
  const { messages } = await module.getCompilationInfo();
  const found = messages.filter((m) => m.type === "error").map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
  if (found.length > 0) return found;
  const make = (entryPoint) => device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint } });
  const made = await Promise.allSettled(entries.map(make));
  return made.flatMap((result, i) => (result.status === "rejected" ? [`${entries[i]}: ${result.reason.message}`] : []));
}"""


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


def compile_all(page: Page, lowered: Lowered, variant: str) -> list[str]:
    """The errors that Chromium has with the shaders of a plan and of its alternatives."""
    modules = [(lowered.kernels, [kernel["entry"] for kernel in lowered.plan["kernels"]])]
    for alternative in lowered.plan["alternatives"]:
        source = lowered.alternatives[alternative["kernels_file"]].decode()
        modules.append((source, [kernel["entry"] for kernel in alternative["kernels"]]))
    errors: list[str] = []
    for source, entries in modules:
        arguments: list[Any] = [source, entries, list(VARIANTS[variant].required_features)]
        errors += page.evaluate(COMPILE, arguments)
    return errors


@pytest.mark.parametrize("variant", [name for name, v in VARIANTS.items() if v.backend == "webgpu" and "f32" in name])
@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_compiles_in_chromium(name: str, variant: str, page: Page, server_url: str) -> None:
    model, context, chunks = architecture(name)
    lowered = lower_once(model, SCHEMES["q4f16_1"], VARIANTS[variant], context, chunks)
    page.goto(server_url + "healthz")
    assert compile_all(page, lowered, variant) == []


def test_affine_and_narrow_groups_compile_in_chromium(
    page: Page, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the table for each way in which storage differs: bits, bias, groups in a block or blocks in a group."""
    schemes = [SCHEMES[name] for name in ("q4af16_g16", "q6f16_g16", "q8af16_g128")]
    monkeypatch.setitem(ALTERNATIVES, "webgpu-f32", (PACKED,))
    lowered = lower_once(*described(schemes), VARIANTS["webgpu-f32"], CONTEXT, (CHUNK,))
    page.goto(server_url + "healthz")
    assert compile_all(page, lowered, "webgpu-f32") == []
