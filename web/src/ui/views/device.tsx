// The device and the loaded model as they are: what was chosen, and why better variants were passed over.

import type { EngineInfo } from "../../api/types";
import { cpuMissing } from "../../page/device";
import { address, binaryBytes, bytes, count, parameters, rounded } from "../format";
import { chat, models } from "../state/app";
import { type DeviceReport, place, remediesOf, whyNoCpu } from "../state/device";
import type { Model } from "../state/models";
import { values } from "../state/words";
import { pieces, t } from "../texts";
import { Drawer } from "./dialog";
import { Facts, type Row } from "./parts";
import { deviceOpen, inspectorOpen, managerOpen } from "./places";

/** Why there is no GPU and what to do about it; with a CPU that can take over no more than a note. */
export function MissingNotice({ report }: { report: DeviceReport & { status: "missing" } }) {
  const means = models.means.value;
  const { what, todo, remedies: advice } = remediesOf(report);
  const remedies = (
    <>
      <p>{todo}</p>
      <ul>
        {advice.map((remedy) => (
          <li key={remedy}>{remedy}</li>
        ))}
      </ul>
      <button type="button" class="plain" data-testid="probe-again" onClick={() => void models.probe()}>
        {t("device.look-again")}
      </button>
    </>
  );
  return (
    <section id="device-missing" class={means === "none" ? "notice bad" : "notice"} data-testid="device-missing" role="alert">
      {means === "cpu" ? (
        <>
          <p>{t("device.cpu-instead")}</p>
          <details>
            <summary>{t("device.how-gpu")}</summary>
            <p>{what}</p>
            {remedies}
          </details>
        </>
      ) : (
        <>
          <h2>{t("device.no-webgpu")}</h2>
          <p>{what}</p>
          <p data-testid="no-cpu">{whyNoCpu(cpuMissing())}</p>
          {remedies}
        </>
      )}
    </section>
  );
}

function DeviceFacts({ report }: { report: DeviceReport }) {
  const threads: [string, string] = [
    t("device.threads"),
    window.crossOriginIsolated ? count(navigator.hardwareConcurrency) : t("device.one-thread"),
  ];
  if (report.status === "missing")
    return (
      <>
        <h3>{t("bar.device")}</h3>
        <p>{remediesOf(report).what}</p>
        <Facts rows={[threads]} />
      </>
    );
  const { adapter, features, limits, software, compatibility } = report.offer;
  const plain = t(software ? "device.software" : "device.hardware");
  const kind = compatibility ? t("device.compatibility", { kind: plain }) : plain;
  return (
    <>
      <h3>{t("bar.device")}</h3>
      <Facts
        rows={[
          ...([
            [t("device.adapter"), adapter],
            [t("device.kind"), kind],
          ] satisfies Row[]),
          [t("device.features"), features.map(([feature, has]) => t(has ? "device.has" : "device.has-not", { feature })).join(", ")],
          ...limits.map(([key, value]): Row => [t(key), value]),
          threads,
        ]}
      />
    </>
  );
}

/** The loaded model, its variant and why better ones were passed over. */
function ModelFacts({ model: { name, license, homepage }, info }: { model: Model; info: EngineInfo }) {
  const published =
    homepage === null ? (
      ""
    ) : (
      <a href={homepage} rel="noopener noreferrer" target="_blank" data-testid="homepage">
        {address(homepage)}
      </a>
    );
  const code = <code>{info.variant}</code>;
  const variant = info.backend === "wasm" ? pieces("variant.on", { variant: code, place: place(info) }) : code;
  const key = info.skipped.length > 0 ? "variant.fits" : info.backend === "wasm" ? "variant.asked" : "variant.best";
  return (
    <>
      <h3>{t("start.model")}</h3>
      <Facts
        rows={[
          [t("model.name"), name],
          [t("model.parameters"), parameters(info.parameters)],
          [t("model.quantization"), info.schemes.join(", ")],
          [
            t("model.weights"),
            t("model.bits", { size: bytes(info.weightBytes), bits: rounded((8 * info.weightBytes) / info.parameters, 2) }),
          ],
          [t("model.values"), values(info.sourceValues)],
          [t("model.context"), t("tokens", { n: info.contextLength })],
          [t("model.kv"), binaryBytes(info.kvBytesPerToken * info.contextLength)],
          [t("model.license"), license ?? ""],
          [t("model.published"), published],
        ]}
      />
      <h3>{t("variant.title")}</h3>
      <p data-testid="variant">{pieces(key, { variant })}</p>
      {info.skipped.length === 0 ? null : (
        <ul class="skipped" data-testid="skipped">
          {info.skipped.map(({ variant, reason }) => (
            <li key={variant + reason}>
              <code>{variant}</code>: {reason}
            </li>
          ))}
        </ul>
      )}
      {info.hints.length === 0 ? null : <h3>{t("variant.faster")}</h3>}
      {info.hints.map((hint) => (
        <p key={hint} data-testid="hint">
          {hint}
        </p>
      ))}
      {info.notices.length === 0 ? null : <h3>{t("variant.notes")}</h3>}
      {info.notices.map((note) => (
        <p key={note} data-testid="load-notice">
          {note}
        </p>
      ))}
    </>
  );
}

export function DeviceDrawer() {
  const { value: loaded } = models.loaded;
  const { value: report } = models.report;
  const change = () => {
    deviceOpen.value = false;
    void chat.end().then(() => models.choose());
  };
  return (
    <Drawer id="device" title={t("device.title")} open={deviceOpen}>
      <div class="drawer-body">
        <div id="device-model" data-testid="device-model">
          {loaded === null ? null : <ModelFacts model={loaded.model} info={loaded.info} />}
        </div>
        {loaded === null ? null : (
          <button
            type="button"
            class="plain"
            data-testid="open-inspector"
            onClick={() => {
              deviceOpen.value = false;
              inspectorOpen.value = true;
            }}
          >
            {t("inspector.open")}
          </button>
        )}
        {loaded === null ? null : (
          <button type="button" id="change-model" class="plain" data-testid="change-model" onClick={change}>
            {t("device.choose")}
          </button>
        )}
        <button
          type="button"
          class="plain"
          data-testid="device-models"
          onClick={() => {
            deviceOpen.value = false;
            managerOpen.value = true;
          }}
        >
          {t("manager.open")}
        </button>
        <div id="device-facts" data-testid="device-facts">
          {report === null ? null : <DeviceFacts report={report} />}
        </div>
      </div>
    </Drawer>
  );
}
