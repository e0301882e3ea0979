// The models: what is here of each, what a load needs yet, whether it fits; downloaded, checked, deleted, shared and added here.

import { useEffect, useMemo, useRef } from "preact/hooks";
import { address, bytes } from "../format";
import { models, notices } from "../state/app";
import { type Managed, Manager, type Need } from "../state/manager";
import type { Model } from "../state/models";
import { t } from "../texts";
import { Action } from "./parts";
import { managerOpen } from "./places";

/** The page at this address loads the model. */
function linkTo({ id }: Model): string {
  const link = new URL(location.href);
  link.search = `?${new URLSearchParams({ model: id }).toString()}`;
  return link.href;
}

function share(model: Model): void {
  navigator.clipboard.writeText(linkTo(model)).then(
    () => notices.pass({ text: t("manager.shared", { name: model.name }) }),
    () => notices.pass({ text: t("copy.denied") }),
  );
}

/** One that a visitor added is none of the catalogue: the load says what it is. */
const isChat = (model: Model | undefined): boolean => (model?.task ?? "text-generation") === "text-generation";

type State = "loaded" | "here" | "partial" | "missing";

function stateOf({ url, kept }: Managed): State {
  const loaded = models.loaded.value?.model.url;
  if (loaded !== undefined && new URL(loaded, document.baseURI).href === url) return "loaded";
  if (kept === undefined) return "missing";
  return kept.state === "complete" ? "here" : "partial";
}

function Needs({ need, model, free }: { need: Need | undefined; model: Managed["model"]; free: number | undefined }) {
  if (need === undefined) return <p>{t("manager.state.looking")}</p>;
  if ("problem" in need)
    return (
      <p class="needs" data-testid="model-fit">
        {need.fits ? t("manager.unreachable", { error: need.problem }) : `${t("manager.no-fit")}. ${need.problem}`}
      </p>
    );
  const means = model === undefined ? "none" : models.meansOf(model);
  const { totalBytes, keptBytes, missingBytes } = need;
  const [total, kept, missing] = [bytes(totalBytes), bytes(keptBytes), bytes(missingBytes)];
  return (
    <>
      <p data-testid="model-fit">{t(means === "none" ? "manager.fits" : `manager.fits-${means}`)}</p>
      <p data-testid="model-needs">
        {missingBytes === 0
          ? t("manager.needs-nothing", { total })
          : keptBytes === 0
            ? t("manager.needs-all", { missing })
            : t("manager.needs-rest", { kept, total, missing })}
      </p>
      {free !== undefined && missingBytes > free ? <p class="needs">{t("manager.no-room", { missing, free: bytes(free) })}</p> : null}
    </>
  );
}

function WorkView({ manager }: { manager: Manager }) {
  const { value: work } = manager.work;
  if (work === null) return null;
  const { job, progress } = work;
  return (
    <section class="progress" data-testid="model-work" role="status">
      <div class="progress-head">
        <span id="work-name">{t(`manager.busy.${job}`)}</span>
        <button type="button" class="quiet small" data-testid="stop-work" onClick={() => manager.stop()}>
          {t("cancel")}
        </button>
      </div>
      <progress
        aria-labelledby="work-name"
        {...(progress === null ? {} : { max: Math.max(1, progress.totalBytes), value: progress.doneBytes })}
      />
      {progress === null ? null : (
        <p class="muted">{t("load.of", { done: bytes(progress.doneBytes), total: bytes(progress.totalBytes) })}</p>
      )}
    </section>
  );
}

function Entry({ entry, manager }: { entry: Managed; manager: Manager }) {
  const { url, name, model, kept } = entry;
  const state = stateOf(entry);
  const need = manager.needs.value.get(url);
  const fits = need !== undefined && !("problem" in need);
  const { quota, usage } = manager.estimate.value ?? {};
  const busy = manager.work.value !== null;
  return (
    <li class="card model-card" data-testid="managed-model">
      <strong dir="auto">{name}</strong>
      <span class={`state ${state}`} data-testid="model-state">
        {t(`manager.state.${state}`)}
      </span>
      <div class="model-about">
        {model === undefined ? <p>{address(url)}</p> : null}
        <Needs need={need} model={model} free={quota === undefined || usage === undefined ? undefined : quota - usage} />
        {kept === undefined ? null : <p>{t("manager.keeps", { size: bytes(kept.bytes), own: bytes(kept.ownBytes) })}</p>}
        {model === undefined ? null : (
          <p data-testid="model-license">
            {t("manager.license", { license: model.license ?? t("start.no-license") })}
            {model.homepage === null ? null : (
              <>
                {" · "}
                <a href={model.homepage} rel="noopener noreferrer" target="_blank">
                  {address(model.homepage)}
                </a>
              </>
            )}
          </p>
        )}
      </div>
      <div class="card-actions">
        <Action
          icon="chip"
          label={t("manager.load")}
          testId="model-load"
          disabled={busy || !fits || state === "loaded" || !isChat(model)}
          onClick={() => {
            managerOpen.value = false;
            manager.load(entry);
          }}
        />
        <Action
          icon="save"
          label={t("manager.download")}
          testId="model-download"
          disabled={busy || !fits || need.missingBytes === 0}
          onClick={() => manager.prefetch(entry)}
        />
        <Action
          icon="check"
          label={t("manager.verify")}
          testId="model-verify"
          disabled={busy || kept === undefined}
          onClick={() => manager.verify(url)}
        />
        {model === undefined ? null : <Action icon="copy" label={t("manager.share")} testId="model-share" onClick={() => share(model)} />}
        <Action
          icon="close"
          label={t("delete")}
          testId="model-delete"
          disabled={busy || kept === undefined || state === "loaded"}
          onClick={() => void manager.delete(entry)}
        />
      </div>
    </li>
  );
}

/** A folder or a tar file that was dropped. */
async function dropped({ dataTransfer }: DragEvent, manager: Manager): Promise<void> {
  const [item] = dataTransfer?.items ?? [];
  const file = item?.getAsFile() ?? null;
  const folders = item as (DataTransferItem & { getAsFileSystemHandle?: () => Promise<FileSystemHandle | null> }) | undefined;
  // Asked at once: after a wait the browser no longer tells.
  const handle = (await folders?.getAsFileSystemHandle?.()) ?? null;
  if (handle instanceof FileSystemDirectoryHandle) manager.import(handle, handle.name);
  else if (file !== null) manager.import(file, file.name.replace(/\.tar$/, ""));
}

function AddModel({ manager }: { manager: Manager }) {
  const box = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const file = useRef<HTMLInputElement>(null);
  const take = (files: FileList | null, tar: boolean) => {
    const first = files?.[0];
    if (files === null || first === undefined) return;
    if (tar) manager.import(first, first.name.replace(/\.tar$/, ""));
    else manager.import([...files], first.webkitRelativePath.split("/")[0] ?? first.name);
  };
  return (
    <form
      class="drop"
      data-testid="add-model"
      onSubmit={(event) => {
        event.preventDefault();
        if (box.current !== null && manager.add(box.current.value.trim())) box.current.value = "";
      }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        void dropped(event, manager);
      }}
    >
      <h3>{t("manager.add")}</h3>
      <label class="field">
        {t("manager.address")}
        <input type="text" inputMode="url" dir="ltr" placeholder="https://" data-testid="model-address" ref={box} />
        <small class="muted">{t("manager.address-help")}</small>
      </label>
      <button type="submit" class="primary" data-testid="add-address">
        {t("manager.add-button")}
      </button>
      <p class="muted">{t("manager.drop")}</p>
      <div class="notice-actions">
        <button type="button" class="plain" onClick={() => folder.current?.click()}>
          {t("manager.choose-folder")}
        </button>
        <button type="button" class="plain" onClick={() => file.current?.click()}>
          {t("manager.choose-file")}
        </button>
      </div>
      <input
        type="file"
        hidden
        {...{ webkitdirectory: true }}
        aria-label={t("manager.choose-folder")}
        data-testid="model-folder"
        ref={folder}
        onChange={({ currentTarget }) => take(currentTarget.files, false)}
      />
      <input
        type="file"
        hidden
        accept=".tar"
        aria-label={t("manager.choose-file")}
        data-testid="model-file"
        ref={file}
        onChange={({ currentTarget }) => take(currentTarget.files, true)}
      />
    </form>
  );
}

export function ManagerView() {
  const manager = useMemo(() => new Manager(models, notices), []);
  useEffect(() => manager.watch(), []);
  const { value: entries } = manager.entries;
  const { value: estimate } = manager.estimate;
  return (
    <div class="drawer-body">
      {estimate === null || estimate.usage === undefined || estimate.quota === undefined ? null : (
        <div data-testid="storage">
          <p>{t("manager.usage", { used: bytes(estimate.usage), quota: bytes(estimate.quota) })}</p>
          <p class="muted">{t(estimate.persisted ? "manager.persisted" : "manager.may-delete")}</p>
          <div class="notice-actions">
            {estimate.persisted ? null : (
              <button type="button" class="plain" data-testid="persist" onClick={() => void manager.persist()}>
                {t("manager.persist")}
              </button>
            )}
            <button
              type="button"
              class="plain"
              data-testid="verify-all"
              disabled={manager.work.value !== null}
              onClick={() => manager.verify()}
            >
              {t("manager.verify-all")}
            </button>
          </div>
        </div>
      )}
      <WorkView manager={manager} />
      <ul class="cards">
        {entries.map((entry) => (
          <Entry key={entry.url} entry={entry} manager={manager} />
        ))}
      </ul>
      <AddModel manager={manager} />
    </div>
  );
}
