"""The f32 variants' WGSL compiles in Chromium under the default limits: the embedded model and real shapes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from compiler.lowering.lower import lower_variant
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.device.test_limits import MODELS, architecture

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


@pytest.mark.parametrize("variant", [name for name, v in VARIANTS.items() if v.backend == "webgpu" and "f32" in name])
@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_compiles_in_chromium(name: str, variant: str, page: Page, server_url: str) -> None:
    model, context, chunks = architecture(name)
    lowered = lower_variant(model, SCHEMES["q4f16_1"], VARIANTS[variant], context, chunks)
    entries = [kernel["entry"] for kernel in lowered.plan["kernels"]]
    modules = [(lowered.kernels, entries)]
    for alternative in lowered.plan["alternatives"]:
        source = lowered.alternatives[alternative["kernels_file"]].decode()
        modules.append((source, [kernel["entry"] for kernel in alternative["kernels"]]))
    page.goto(server_url + "healthz")
    for source, its_entries in modules:
        arguments: list[Any] = [source, its_entries, list(VARIANTS[variant].required_features)]
        assert page.evaluate(COMPILE, arguments) == []
