// The device: what the model needs of each limit, drawn beside what there is; its features.

import { useEffect, useState } from "preact/hooks";
import { probe, type Probe, wasmSupport } from "../../page/device";
import { binaryBytes, count } from "../format";
import type { Inspection } from "../state/inspection";
import { type Limit, limitsOf, place } from "../state/limits";
import { t } from "../texts";
import { Facts } from "./parts";

function LimitBar({ limit, end }: { limit: Limit; end: number }) {
  const { name, unit, need, has, standard } = limit;
  const show = (n: number) => (unit === "bytes" ? binaryBytes(n) : count(n));
  const at = (n: number) => `${100 * place(n, end)}%`;
  return (
    <li data-testid="limit">
      <span class="ins-limit-name">{name}</span>
      <span class="ins-limit-bar" aria-hidden="true">
        <i class="has" style={{ inlineSize: at(has ?? need) }} />
        <i class="need" style={{ inlineSize: at(need) }} />
        {standard === undefined ? null : <i class="standard" style={{ insetInlineStart: at(standard) }} />}
      </span>
      <span class="number">
        <b>
          {t("inspector.limit.need")} {show(need)}
        </b>
        {has === undefined ? null : (
          <span class="muted">
            {t("inspector.limit.has")} {show(has)}
          </span>
        )}
      </span>
    </li>
  );
}

function Limits({ limits }: { limits: Limit[] }) {
  const end = (unit: Limit["unit"]) =>
    Math.max(2, ...limits.filter((limit) => limit.unit === unit).map(({ need, has }) => Math.max(need, has ?? 0)));
  return (
    <section aria-labelledby="limits-title">
      <h3 id="limits-title">{t("inspector.limits")}</h3>
      <ul class="ins-limits" data-testid="limits">
        {limits.map((limit) => (
          <LimitBar key={limit.name} limit={limit} end={end(limit.unit)} />
        ))}
      </ul>
      <p class="ins-legend muted" aria-hidden="true">
        <span>
          <i class="need" /> {t("inspector.limit.need")}
        </span>
        <span>
          <i class="has" /> {t("inspector.limit.has")}
        </span>
        {limits.some(({ standard }) => standard !== undefined) ? (
          <span>
            <i class="standard" /> {t("inspector.limit.standard")}
          </span>
        ) : null}
      </p>
    </section>
  );
}

function Features({ all, used }: { all: readonly string[]; used: readonly string[] }) {
  return (
    <section aria-labelledby="features-title">
      <h3 id="features-title">{t("inspector.features")}</h3>
      <ul class="ins-features" data-testid="features">
        {all.map((name) => (
          <li key={name} class={used.includes(name) ? "used" : ""} title={used.includes(name) ? t("inspector.features.used") : undefined}>
            {name}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** WebAssembly of 32 bits. */
const MOST_MEMORY = 2 ** 32;

function Cpu({ inspection }: { inspection: Inspection }) {
  const { engine, info } = inspection.loaded;
  const support = wasmSupport();
  const names = { simd: "SIMD", relaxedSimd: "relaxed-simd", sharedMemory: "shared-memory" } as const;
  const all = (Object.keys(names) as (keyof typeof names)[]).filter((name) => support[name]);
  const used = all.filter((name) => name !== "sharedMemory" || info.threads > 1);
  const limits: Limit[] = [
    { name: t("inspector.memory"), unit: "bytes", need: engine.stats().gpuBytes, has: MOST_MEMORY, standard: undefined },
    { name: t("inspector.threads"), unit: "count", need: info.threads, has: navigator.hardwareConcurrency, standard: undefined },
  ];
  return (
    <>
      <Limits limits={limits} />
      <Features all={all.map((name) => names[name])} used={used.map((name) => names[name])} />
    </>
  );
}

function Gpu({ inspection }: { inspection: Inspection }) {
  const [found, setFound] = useState<Probe | null>(null);
  useEffect(() => void probe().then(setFound), []);
  const { value: read } = inspection.read;
  if (read === null || found === null) return null;
  if (found.adapter === undefined) return <p class="muted">{t("inspector.no-device")}</p>;
  const features = [...found.features].toSorted();
  const used = read.variant.required_features;
  return (
    <>
      <Limits limits={limitsOf(read.plan, found.limits)} />
      <Features all={[...used, ...features.filter((name) => !used.includes(name))]} used={used} />
    </>
  );
}

export function DeviceTab({ inspection }: { inspection: Inspection }) {
  const { adapter, variant, backend } = inspection.loaded.info;
  const named = [adapter.vendor, adapter.architecture, adapter.device, adapter.description].filter((part) => part !== "");
  return (
    <div class="ins-device">
      <Facts
        rows={[
          [t("inspector.adapter"), named.join(" · ")],
          [t("inspector.variant"), <code key="variant">{variant}</code>],
        ]}
      />
      {backend === "wasm" ? <Cpu inspection={inspection} /> : <Gpu inspection={inspection} />}
    </div>
  );
}
