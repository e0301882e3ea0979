// Before a model answers: what can be loaded on this device, its progress, and what went wrong.

import { useEffect, useRef } from "preact/hooks";
import { address, bytes, parameters } from "../format";
import { history, models } from "../state/app";
import { deviceLine } from "../state/device";
import type { Model } from "../state/models";
import { phaseText, progressText } from "../state/rate";
import { pieces, t } from "../texts";
import { MissingNotice } from "./device";
import { Icon } from "./parts";
import { managerOpen } from "./places";

/** License and place of publication in a line. */
function origin({ license, homepage }: Model): string {
  const named = license ?? t("start.no-license");
  return homepage === null ? t("start.license", { license: named }) : t("start.license-from", { license: named, place: address(homepage) });
}

function Option({ model }: { model: Model }) {
  const { quantization, context } = model;
  const about = t("start.about", { parameters: parameters(model.parameters), quantization, context });
  return (
    <label class="model" data-testid={`model-${model.id}`}>
      <input
        type="radio"
        name="model"
        value={model.id}
        checked={models.chosenId.value === model.id}
        onChange={() => (models.chosenId.value = model.id)}
      />
      <span class="model-text">
        <strong>{model.name}</strong>
        <span class="muted">{about}</span>
        {model.license === null ? null : (
          <span class="muted" data-testid="license">
            {origin(model)}
          </span>
        )}
        {models.report.value === null || models.canRun(model) ? null : <span class="needs">{t("start.needs-gpu")}</span>}
      </span>
      <span class="number">{bytes(model.weight_bytes)}</span>
    </label>
  );
}

function Picker() {
  const button = useRef<HTMLButtonElement>(null);
  const { value: model } = models.chosen;
  const can = model !== undefined && models.canRun(model);
  const { value: catalogue } = models.catalogue;
  const { value: error } = models.catalogueError;
  const { value: wasLoaded } = models.stopped;
  useEffect(() => {
    if (wasLoaded > 0 && models.loadError.peek() === null) button.current?.focus();
  }, [wasLoaded]);
  const onSubmit = (event: Event) => {
    event.preventDefault();
    if (model !== undefined && can) void models.load(model);
  };
  return (
    <form id="picker" class="picker" data-testid="picker" onSubmit={onSubmit}>
      <fieldset id="models" class="models" data-testid="models" aria-busy={!models.known.value}>
        <legend class="visually-hidden">{t("start.model")}</legend>
        {models.known.value ? null : <p class="muted">{t("start.reading")}</p>}
        {error === null ? null : (
          <p class="notice bad" role="alert">
            {t("start.catalogue-failed", { error })}
          </p>
        )}
        {models.offered.value.map((each) => (
          <Option key={each.id} model={each} />
        ))}
        {catalogue !== null && models.offered.value.length === 0 ? (
          <p class="notice" data-testid="no-models">
            {pieces("start.none", { command: <code>wisp compile configs/demo</code> })}
          </p>
        ) : null}
        {models.others.value.map(({ id, name, task }) => (
          <p key={id} class="notice" data-testid={`${task === "embedding" ? "embeds" : "transcribes"}-${id}`}>
            {t(task === "embedding" ? "start.embeds" : "start.transcribes", { name })}
          </p>
        ))}
        {catalogue?.invalid.map(({ id, error: why }) => (
          <p key={id} class="notice bad">
            {t("start.invalid", { id, error: why })}
          </p>
        ))}
      </fieldset>
      <button type="submit" id="load" class="primary wide" data-testid="load" disabled={!can} ref={button}>
        {model === undefined ? t("start.load") : t("start.load-size", { size: bytes(model.weight_bytes) })}
      </button>
    </form>
  );
}

function ProgressView() {
  const cancel = useRef<HTMLButtonElement>(null);
  useEffect(() => cancel.current?.focus(), []);
  const { value: progress } = models.progress;
  if (progress === null) return null;
  const { name, state, perSecond } = progress;
  const known = state !== null && state.totalBytes > 0;
  const fromCache = state !== null && state.cachedBytes > 0 && state.cachedBytes >= state.loadedBytes;
  return (
    <section id="progress" class="progress" data-testid="progress" aria-label={t("load.label")}>
      <div class="progress-head">
        <span id="progress-phase" role="status">
          {state === null ? t("load.model", { name }) : phaseText(state.phase, fromCache)}
        </span>
        <span class="number">{known ? `${Math.floor((100 * state.loadedBytes) / state.totalBytes)} %` : ""}</span>
      </div>
      <progress
        id="progress-bar"
        data-testid="progress-bar"
        aria-labelledby="progress-phase"
        {...(known ? { max: state.totalBytes, value: state.loadedBytes } : { max: 1 })}
      />
      <div class="progress-foot">
        <span class="muted number" data-testid="progress-detail">
          {state === null ? "" : progressText(state, perSecond)}
        </span>
        <button type="button" id="cancel" class="quiet" data-testid="cancel" ref={cancel} onClick={() => models.cancel()}>
          {t("cancel")}
        </button>
      </div>
    </section>
  );
}

function LoadError({ text }: { text: string }) {
  const retry = useRef<HTMLButtonElement>(null);
  useEffect(() => retry.current?.focus(), []);
  return (
    <section id="load-error" class="notice bad" data-testid="load-error" role="alert">
      <h2>{t("start.failed")}</h2>
      <p>{text}</p>
      <button type="button" id="retry" class="primary" data-testid="retry" ref={retry} onClick={() => models.retry()}>
        {t("retry")}
      </button>
    </section>
  );
}

export function Start() {
  const { value: report } = models.report;
  const { value: error } = models.loadError;
  const { value: open } = history.open;
  const loading = models.progress.value !== null;
  return (
    <main id="start" class="start" data-testid="start">
      <div class="column">
        <Icon name="wisp" kind="hero" />
        <h1>{t("start.title")}</h1>
        <p class="lead">{t("start.lead")}</p>
        {report?.status === "missing" && models.known.value ? <MissingNotice report={report} /> : null}
        {error === null || loading ? null : <LoadError text={error} />}
        {open === null || loading ? null : (
          <p class="notice" data-testid="goes-on">
            {t("start.goes-on", { title: open.title })}
          </p>
        )}
        {loading ? <ProgressView /> : <Picker />}
        {loading ? null : (
          <button type="button" class="plain" data-testid="open-manager" aria-haspopup="dialog" onClick={() => (managerOpen.value = true)}>
            {t("manager.open")}
          </button>
        )}
        <p class="device-line muted">
          <span id="device-line" data-testid="device-line">
            {report === null ? t("start.looking") : deviceLine(report, models.means.value)}
          </span>
        </p>
      </div>
    </main>
  );
}
