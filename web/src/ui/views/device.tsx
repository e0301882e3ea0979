// The device and the loaded model as they are: what was chosen, and why better variants were passed over.

import type { EngineInfo } from "../../api/types";
import { cpuMissing } from "../../page/device";
import { address, binaryBytes, bytes, count, parameters, values } from "../format";
import { chat, models } from "../state/app";
import { type DeviceReport, place, whyNoCpu } from "../state/device";
import type { Model } from "../state/models";
import { Drawer } from "./dialog";
import { Facts } from "./parts";
import { deviceOpen } from "./places";

/** Why there is no GPU and what to do about it; with a CPU that can take over no more than a note. */
export function MissingNotice({ report }: { report: DeviceReport & { status: "missing" } }) {
  const means = models.means.value;
  const remedies = (
    <>
      <p>{report.todo}</p>
      <ul>
        {report.remedies.map((remedy) => (
          <li key={remedy}>{remedy}</li>
        ))}
      </ul>
      <button type="button" class="plain" data-testid="probe-again" onClick={() => void models.probe()}>
        Look again
      </button>
    </>
  );
  return (
    <section id="device-missing" class={means === "none" ? "notice bad" : "notice"} data-testid="device-missing" role="alert">
      {means === "cpu" ? (
        <>
          <p>No GPU can be used here, so the model runs on the CPU: the same answers, more slowly.</p>
          <details>
            <summary>How to use the GPU</summary>
            <p>{report.what}</p>
            {remedies}
          </details>
        </>
      ) : (
        <>
          <h2>WebGPU is missing</h2>
          <p>{report.what}</p>
          <p data-testid="no-cpu">{whyNoCpu(cpuMissing())}</p>
          {remedies}
        </>
      )}
    </section>
  );
}

function DeviceFacts({ report }: { report: DeviceReport }) {
  const threads: [string, string] = [
    "CPU threads",
    window.crossOriginIsolated ? count(navigator.hardwareConcurrency) : "1, the page is not isolated",
  ];
  if (report.status === "missing")
    return (
      <>
        <h3>Device</h3>
        <p>{report.what}</p>
        <Facts rows={[threads]} />
      </>
    );
  const { adapter, features, limits, software, compatibility } = report.offer;
  const kind = `${software ? "software, on the CPU" : "hardware"}${compatibility ? "; WebGPU in compatibility mode" : ""}`;
  return (
    <>
      <h3>Device</h3>
      <Facts rows={[["Adapter", adapter], ["Kind", kind], ["Features", features.join(", ")], ...limits, threads]} />
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
  const chosen =
    info.skipped.length > 0
      ? ", the best that this device runs. Passed over:"
      : info.backend === "wasm"
        ? ", as asked for."
        : ", the best that this model has.";
  return (
    <>
      <h3>Model</h3>
      <Facts
        rows={[
          ["Name", name],
          ["Parameters", parameters(info.parameters)],
          ["Quantization", info.schemes.join(", ")],
          ["Weights", `${bytes(info.weightBytes)}, ${((8 * info.weightBytes) / info.parameters).toFixed(2)} bits each`],
          ["Values", values(info.sourceValues)],
          ["Context", `${count(info.contextLength)} tokens`],
          ["KV cache", binaryBytes(info.kvBytesPerToken * info.contextLength)],
          ["License", license ?? ""],
          ["Published", published],
        ]}
      />
      <h3>Variant</h3>
      <p data-testid="variant">
        <code>{info.variant}</code>
        {info.backend === "wasm" ? ` on the ${place(info)}` : ""}
        {chosen}
      </p>
      {info.skipped.length === 0 ? null : (
        <ul class="skipped" data-testid="skipped">
          {info.skipped.map(({ variant, reason }) => (
            <li key={variant + reason}>
              <code>{variant}</code>: {reason}
            </li>
          ))}
        </ul>
      )}
      {info.hints.length === 0 ? null : <h3>What would make it faster</h3>}
      {info.hints.map((hint) => (
        <p key={hint} data-testid="hint">
          {hint}
        </p>
      ))}
      {info.notices.length === 0 ? null : <h3>Notes</h3>}
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
    <Drawer id="device" title="Model and device" open={deviceOpen}>
      <div class="drawer-body">
        <div id="device-model" data-testid="device-model">
          {loaded === null ? null : <ModelFacts model={loaded.model} info={loaded.info} />}
        </div>
        {loaded === null ? null : (
          <button type="button" id="change-model" class="plain" data-testid="change-model" onClick={change}>
            Choose another model
          </button>
        )}
        <div id="device-facts" data-testid="device-facts">
          {report === null ? null : <DeviceFacts report={report} />}
        </div>
      </div>
    </Drawer>
  );
}
