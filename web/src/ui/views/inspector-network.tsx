// The network drawn: a skyline of blocks, the chosen block's dispatches with what flows between them, the chosen dispatch in detail.

import { bytes } from "../format";
import type { Inspection } from "../state/inspection";
import { type Block, type Detour, type Flow, type Matrix, type Network, routes, type Step } from "../state/network";
import { t } from "../texts";
import { StepDetails } from "./inspector-step";

export function nameOf(block: Block, { blocks }: Network): string {
  if (block.layer !== undefined) return t("inspector.layer", { n: block.layer });
  return blocks[0] === block ? t("inspector.input") : t("inspector.output");
}

const programText = (name: string): string => {
  const [, kind, rows] = /^(prefill|verify)_(\d+)$/.exec(name) ?? [];
  if (kind === undefined) return t("inspector.program.decode");
  return t(kind === "verify" ? "inspector.program.verify" : "inspector.program.prefill", { n: Number(rows) });
};

/** The last two parts of a weight's name, without where it stands. */
export const shortName = ({ name }: Matrix): string =>
  name
    .split(".")
    .filter((part) => !/^(?:\d+|model|layers|transformer|h)$/.test(part))
    .slice(-2)
    .join(".");

export const shapeText = (shape: readonly number[]): string => shape.join(" × ");

function Skyline({ inspection, network }: { inspection: Inspection; network: Network }) {
  const { value: chosen } = inspection.block;
  const most = Math.max(1, ...network.blocks.map((block) => block.bytes));
  return (
    <div class="ins-skyline" role="group" aria-label={t("inspector.blocks")}>
      {network.blocks.map((block) => {
        const name = nameOf(block, network);
        const label = t("inspector.block.bytes", { block: name, bytes: bytes(block.bytes) });
        return (
          <button
            type="button"
            key={block.id}
            class="ins-tower"
            data-testid={`block-${block.id}`}
            aria-pressed={block.id === chosen?.id}
            aria-label={label}
            title={label}
            onClick={() => {
              inspection.blockId.value = block.id;
              inspection.stepIndex.value = null;
            }}
          >
            <span class="ins-storeys">
              {block.steps.flatMap(({ index, kind, matrices }) =>
                matrices.map((matrix) => (
                  <i key={`${index}.${matrix.name}`} class={kind} style={{ blockSize: `${(100 * matrix.bytes) / most}%` }} />
                )),
              )}
            </span>
            <span class="ins-tower-name">{block.layer ?? name}</span>
          </button>
        );
      })}
    </div>
  );
}

/** In pixels: of a step, from one to the next, of a lane; what is written above the first and below the last. */
const HEIGHT = 62;
const PITCH = 92;
const LANE = 14;
const END = 30;
const WIDTH = 250;

const topOf = (place: number): number => END + place * PITCH;

function Arrows({ steps, flows }: { steps: readonly Step[]; flows: { straight: Flow[]; detours: Detour[] } }) {
  const first = steps[0]?.index ?? 0;
  const lanes = Math.max(0, ...flows.detours.map(({ lane }) => lane + 1));
  const height = topOf(steps.length) + END - (PITCH - HEIGHT);
  const leaves = (index: number) => (index < first ? 4 : topOf(index - first) + HEIGHT);
  const enters = (index: number) => (index - first >= steps.length ? height - 4 : topOf(index - first));
  const dashed = ({ through }: Flow) => (through.kind === "kv" ? "ins-cached" : "ins-flow");
  return (
    <svg class="ins-arrows" width={WIDTH + (lanes + 1) * LANE + 8} height={height} aria-hidden="true">
      <defs>
        <marker id="ins-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
          <path d="M0 0.5 7.5 4 0 7.5z" fill="context-stroke" />
        </marker>
      </defs>
      {flows.straight.map((flow) => (
        <path
          key={`${flow.from}-${flow.to}`}
          class={dashed(flow)}
          d={`M${WIDTH / 2} ${leaves(flow.from)}V${enters(flow.to) - 1}`}
          marker-end="url(#ins-tip)"
        >
          <title>{flow.through.name}</title>
        </path>
      ))}
      {flows.detours.map((flow) => {
        const right = WIDTH + 10 + flow.lane * LANE;
        const from = flow.from < first ? 12 : leaves(flow.from) - 14;
        const to = flow.to - first >= steps.length ? height - 12 : enters(flow.to) + 14 + 6 * (flow.lane % 3);
        const begin = flow.from < first ? WIDTH / 2 : WIDTH;
        const end = flow.to - first >= steps.length ? WIDTH / 2 + 1 : WIDTH + 1;
        return (
          <path
            key={`${flow.from}-${flow.to}`}
            class={dashed(flow)}
            d={`M${begin} ${from}H${right - 6}q6 0 6 6V${to - 6}q0 6 -6 6H${end}`}
            marker-end="url(#ins-tip)"
          >
            <title>{flow.through.name}</title>
          </path>
        );
      })}
    </svg>
  );
}

function Cache({ step }: { step: Step }) {
  const cache = step.bindings.find(({ buffer }) => buffer.kind === "kv");
  if (cache === undefined) return null;
  return (
    <span class="ins-cache">{t(cache.access === "read" ? "inspector.kv.read" : "inspector.kv.write", { name: cache.buffer.name })}</span>
  );
}

function StepBox({ step, place, inspection }: { step: Step; place: number; inspection: Inspection }) {
  const [matrix] = step.matrices;
  return (
    <li style={{ insetBlockStart: `${topOf(place)}px`, inlineSize: `${WIDTH}px`, blockSize: `${HEIGHT}px` }}>
      <button
        type="button"
        class={`ins-step ${step.kind}`}
        data-testid={`step-${step.index}`}
        aria-pressed={step.index === inspection.step.value?.index}
        onClick={() => (inspection.stepIndex.value = step.index)}
      >
        <span class="ins-step-head">
          <b>{step.title}</b>
          <Cache step={step} />
        </span>
        {matrix === undefined ? (
          <span class="muted">{t(`inspector.kind.${step.kind}`)}</span>
        ) : (
          <>
            <span class="ins-name">{shortName(matrix)}</span>
            <span class="muted ins-step-foot">
              <span>{shapeText(matrix.shape)}</span>
              <span>{matrix.scheme}</span>
              <span>{bytes(matrix.bytes)}</span>
            </span>
          </>
        )}
      </button>
    </li>
  );
}

function BlockGraph({ inspection, network }: { inspection: Inspection; network: Network }) {
  const { value: block } = inspection.block;
  if (block === undefined) return null;
  const at = network.blocks.indexOf(block);
  const before = network.blocks[at - 1];
  const after = network.blocks[at + 1];
  const flows = routes(block.steps, network.flows);
  return (
    <div class="ins-graph" data-testid="graph">
      <Arrows steps={block.steps} flows={flows} />
      {before === undefined ? null : <span class="ins-end muted">{t("inspector.from.before", { block: nameOf(before, network) })}</span>}
      <ol aria-label={t("inspector.steps", { block: nameOf(block, network) })}>
        {block.steps.map((step, place) => (
          <StepBox key={step.index} step={step} place={place} inspection={inspection} />
        ))}
      </ol>
      {after === undefined ? null : <span class="ins-end last muted">{t("inspector.to.after", { block: nameOf(after, network) })}</span>}
    </div>
  );
}

export function NetworkTab({ inspection }: { inspection: Inspection }) {
  const { value: network } = inspection.network;
  if (network === null) return null;
  return (
    <div class="ins-network">
      <div class="ins-over">
        <Skyline inspection={inspection} network={network} />
        <label class="ins-program">
          <span class="muted">{t("inspector.program")}</span>
          <select
            data-testid="inspect-program"
            value={inspection.program.value}
            onChange={({ currentTarget }) => {
              inspection.program.value = currentTarget.value;
              inspection.stepIndex.value = null;
            }}
          >
            {inspection.programs.value.map((name) => (
              <option key={name} value={name}>
                {programText(name)}
              </option>
            ))}
          </select>
        </label>
      </div>
      <BlockGraph inspection={inspection} network={network} />
      <StepDetails inspection={inspection} />
    </div>
  );
}
