// The settings of the open conversation, or of those to come: system prompt, sampling, where answers stop, their format.

import { useState } from "preact/hooks";
import { firstSpoken, isLanguage, LANGUAGES } from "../language";
import { history, settings } from "../state/app";
import { type Control, CONTROLS, MOST_STOPS, schemaFault } from "../state/choices";
import { chooseLanguage, chosenLanguage } from "../state/spoken";
import { t } from "../texts";
import { Drawer } from "./dialog";
import { settingsOpen } from "./places";

function SamplingField({ control: { name, min, max, step, slider } }: { control: Control }) {
  const id = `setting-${name}`;
  const value = settings.current.value.sampling[name] ?? settings.defaults.value[name];
  return (
    <div class="field">
      <span class="field-head">
        <label for={id}>{t(`sampling.${name}`)}</label>
        {slider ? (
          <output for={id} class="number">
            {value}
          </output>
        ) : null}
      </span>
      <input
        id={id}
        type={slider ? "range" : "number"}
        {...(slider ? {} : { inputMode: "numeric" as const })}
        min={min}
        max={max}
        step={step}
        data-testid={id}
        aria-describedby={`${id}-help`}
        value={value ?? ""}
        onInput={({ currentTarget: input }) =>
          settings.setSampling(name, input.value !== "" && input.validity.valid ? input.valueAsNumber : undefined)
        }
      />
      <small id={`${id}-help`} class="muted">
        {t(`sampling.${name}-help`)}
      </small>
    </div>
  );
}

function StopField() {
  const { stop } = settings.current.value;
  const [text, setText] = useState<string | null>(null);
  const onInput = (value: string) => {
    setText(value);
    settings.change({
      stop: value
        .split("\n")
        .filter((line) => line !== "")
        .slice(0, MOST_STOPS),
    });
  };
  return (
    <label class="field">
      {t("settings.stop")}
      <textarea
        data-testid="setting-stop"
        rows={2}
        placeholder={t("none")}
        value={text ?? stop.join("\n")}
        onInput={({ currentTarget }) => onInput(currentTarget.value)}
        onBlur={() => setText(null)}
      />
      <small class="muted">{t("settings.stop-help")}</small>
    </label>
  );
}

function SchemaField() {
  const { schema } = settings.current.value;
  const fault = schemaFault(schema);
  return (
    <div class="field">
      <label for="setting-schema">{t("settings.schema")}</label>
      <textarea
        id="setting-schema"
        class="code"
        data-testid="setting-schema"
        rows={4}
        spellcheck={false}
        placeholder='{"type": "object", "properties": {"name": {"type": "string"}}}'
        aria-invalid={fault !== undefined}
        aria-describedby="setting-schema-help"
        value={schema}
        onInput={({ currentTarget }) => settings.change({ schema: currentTarget.value })}
      />
      <small id="setting-schema-help" class={fault === undefined ? "muted" : "bad-text"} data-testid="schema-help">
        {fault === undefined ? t("settings.schema-help") : t("settings.schema-fault", { why: fault })}
      </small>
    </div>
  );
}

function LanguageField() {
  const own = LANGUAGES[firstSpoken(navigator.languages)];
  return (
    <label class="field">
      {t("language.name")}
      <select
        data-testid="setting-language"
        value={chosenLanguage.value ?? ""}
        onChange={({ currentTarget: { value } }) => chooseLanguage(isLanguage(value) ? value : null)}
      >
        <option value="">{t("language.browser", { name: own })}</option>
        {Object.entries(LANGUAGES).map(([tag, name]) => (
          <option key={tag} value={tag} lang={tag}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

export function SettingsDrawer() {
  const { value: open } = history.open;
  const { systemPrompt } = settings.current.value;
  return (
    <Drawer id="settings" title={t("bar.settings")} open={settingsOpen}>
      <form id="settings-form" class="drawer-body" autocomplete="off" onSubmit={(event) => event.preventDefault()}>
        <p class="muted scope" data-testid="settings-scope">
          {t(open === null ? "settings.for-new" : "settings.for-this")}
        </p>
        <label class="field">
          {t("persona.system")}
          <textarea
            id="system-prompt"
            data-testid="system-prompt"
            rows={4}
            dir="auto"
            placeholder={t("none")}
            value={systemPrompt}
            onInput={({ currentTarget }) => settings.change({ systemPrompt: currentTarget.value })}
          />
          <small class="muted">{t("settings.system-help")}</small>
        </label>
        <div id="sampling" class="sampling">
          {CONTROLS.map((control) => (
            <SamplingField key={control.name} control={control} />
          ))}
        </div>
        <StopField />
        <SchemaField />
        <button type="button" class="plain" data-testid="reset-settings" onClick={() => settings.change({ sampling: {} })}>
          {t("settings.reset")}
        </button>
        {open === null ? null : (
          <button type="button" class="plain" data-testid="settings-for-new" onClick={() => settings.useForNew()}>
            {t("settings.use-for-new")}
          </button>
        )}
        <hr />
        <LanguageField />
      </form>
    </Drawer>
  );
}
