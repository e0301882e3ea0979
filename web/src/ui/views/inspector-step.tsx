// One dispatch in detail: its grid, what it binds, the weights it reads, and its kernel's source.

import { useEffect, useState } from "preact/hooks";
import { binaryBytes, bytes, count } from "../format";
import type { Inspection } from "../state/inspection";
import type { Kernel, Matrix, Step } from "../state/network";
import { t } from "../texts";
import { CopyAction, Facts } from "./parts";

const product = (numbers: readonly number[]): number => numbers.reduce((total, n) => total * n, 1);
const sizes = (numbers: readonly number[]): string => numbers.map((n) => count(n)).join(" × ");

function gridText({ grid, kernel: { workgroup } }: Step): string {
  return product(workgroup) === 1 ? t("inspector.grid.items", { n: product(grid) }) : t("inspector.grid.groups", { grid: sizes(grid) });
}

function Bindings({ step }: { step: Step }) {
  return (
    <div class="ins-scroll" tabIndex={0} role="region" aria-label={t("inspector.bindings")}>
      <table class="ins-table" data-testid="bindings">
        <thead>
          <tr>
            <th scope="col">#</th>
            <th scope="col">{t("inspector.buffer")}</th>
            <th scope="col">{t("inspector.access")}</th>
            <th scope="col" class="number">
              {t("inspector.size")}
            </th>
          </tr>
        </thead>
        <tbody>
          {step.bindings.map(({ index, access, buffer }) => (
            <tr key={index}>
              <td class="number">{index}</td>
              <td>
                <i class={`ins-dot ${buffer.kind}`} aria-hidden="true" />
                {buffer.name}
              </td>
              <td>{access === "read" ? t("inspector.read") : t("inspector.write")}</td>
              <td class="number">{bytes(buffer.bytes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Weight({ matrix }: { matrix: Matrix }) {
  const perValue = (8 * matrix.bytes) / Math.max(1, product(matrix.shape));
  return (
    <section class="ins-weight" data-testid="weight">
      <h4>{matrix.name}</h4>
      <p class="muted">
        {sizes(matrix.shape)} · {matrix.scheme} · {bytes(matrix.bytes)} ·{" "}
        {t("inspector.bits", { n: perValue.toFixed(perValue % 1 === 0 ? 0 : 2) })}
      </p>
    </section>
  );
}

function Source({ kernel, inspection }: { kernel: Kernel; inspection: Inspection }) {
  const [text, setText] = useState<string | null>(null);
  useEffect(() => {
    let current = true;
    setText(null);
    inspection.source(kernel).then(
      (found) => current && setText(found === "" ? t("inspector.source.none") : found),
      (error: unknown) => current && setText(error instanceof Error ? error.message : String(error)),
    );
    return () => {
      current = false;
    };
  }, [kernel.entry, inspection]);
  const { value: read } = inspection.read;
  return (
    <>
      <div class="ins-source-head">
        <h3>
          {t("inspector.source")} <small>{read?.variant.backend === "wasm" ? "WAT" : "WGSL"}</small>
        </h3>
        {text === null ? null : <CopyAction text={() => text} testId="copy-source" />}
      </div>
      <pre class="ins-source" data-testid="kernel-source" tabIndex={0}>
        {text ?? t("inspector.loading")}
      </pre>
    </>
  );
}

export function StepDetails({ inspection }: { inspection: Inspection }) {
  const { value: step } = inspection.step;
  if (step === undefined) return null;
  const { kernel } = step;
  const alone = product(kernel.workgroup) === 1;
  return (
    <section class="ins-details" data-testid="step-details" aria-live="polite" aria-labelledby="step-name">
      <h3 id="step-name" class={`ins-kind ${step.kind}`}>
        <code>{kernel.entry}</code>
        <span>{t(`inspector.kind.${step.kind}`)}</span>
      </h3>
      <Facts
        rows={[
          [t("inspector.grid"), gridText(step)],
          [t("inspector.workgroup"), alone ? "" : t("inspector.workgroup.threads", { size: sizes(kernel.workgroup) })],
          [t("inspector.shared"), kernel.workgroupBytes === 0 ? "" : binaryBytes(kernel.workgroupBytes)],
          [t("inspector.uses"), t("inspector.uses.times", { n: inspection.uses(kernel) })],
        ]}
      />
      {step.matrices.length === 0 ? null : <h3>{t("inspector.weights")}</h3>}
      {step.matrices.map((matrix) => (
        <Weight key={matrix.name} matrix={matrix} />
      ))}
      <h3>{t("inspector.bindings")}</h3>
      <Bindings step={step} />
      <Source kernel={kernel} inspection={inspection} />
    </section>
  );
}
