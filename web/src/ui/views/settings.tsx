// The settings of the open conversation, or of those to come: system prompt, sampling, where answers stop, their format.

import { useState } from "preact/hooks";
import { firstSpoken, isLanguage, LANGUAGES } from "../language";
import { history, settings } from "../state/app";
import { type Control, CONTROLS, MOST_STOPS, schemaFault, type SamplingName } from "../state/choices";
import { chooseLanguage, chosenLanguage } from "../state/spoken";
import { t } from "../texts";
import { Drawer } from "./dialog";
import { settingsOpen } from "./places";

export const SAMPLING_TEXTS: Record<SamplingName, { label: string; help: string }> = {
  temperature: { label: "Temperature", help: "0 always takes the likeliest token; higher is more varied." },
  top_p: { label: "Top p", help: "Keeps the likeliest tokens that together reach this probability. 1 is off." },
  top_k: { label: "Top k", help: "Keeps this many of the likeliest tokens. 0 is off." },
  min_p: { label: "Min p", help: "Drops tokens below this fraction of the likeliest one's probability. 0 is off." },
  repetition_penalty: { label: "Repetition penalty", help: "Above 1 discourages tokens that are in the conversation already. 1 is off." },
  max_tokens: { label: "Longest answer, in tokens", help: "Empty: as far as the context goes." },
  seed: { label: "Seed", help: "The same seed and conversation give the same answer. Empty: a new one each time." },
};

function SamplingField({ control: { name, min, max, step, slider } }: { control: Control }) {
  const id = `setting-${name}`;
  const value = settings.current.value.sampling[name] ?? settings.defaults.value[name];
  const { label, help } = SAMPLING_TEXTS[name];
  return (
    <div class="field">
      <span class="field-head">
        <label for={id}>{label}</label>
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
        {help}
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
      Stop texts
      <textarea
        data-testid="setting-stop"
        rows={2}
        placeholder="None"
        value={text ?? stop.join("\n")}
        onInput={({ currentTarget }) => onInput(currentTarget.value)}
        onBlur={() => setText(null)}
      />
      <small class="muted">One a line: an answer ends before the first of them.</small>
    </label>
  );
}

function SchemaField() {
  const { schema } = settings.current.value;
  const fault = schemaFault(schema);
  return (
    <div class="field">
      <label for="setting-schema">Answer as JSON, by this schema</label>
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
        {fault === undefined ? "Empty: free answers. The schema holds token by token." : `Not used: this is no JSON schema (${fault}).`}
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
    <Drawer id="settings" title="Settings" open={settingsOpen}>
      <form id="settings-form" class="drawer-body" autocomplete="off" onSubmit={(event) => event.preventDefault()}>
        <p class="muted scope" data-testid="settings-scope">
          {open === null ? "For new conversations." : "For this conversation, from its next answer on."}
        </p>
        <label class="field">
          System prompt
          <textarea
            id="system-prompt"
            data-testid="system-prompt"
            rows={4}
            dir="auto"
            placeholder="None"
            value={systemPrompt}
            onInput={({ currentTarget }) => settings.change({ systemPrompt: currentTarget.value })}
          />
          <small class="muted">Holds from the next message on.</small>
        </label>
        <div id="sampling" class="sampling">
          {CONTROLS.map((control) => (
            <SamplingField key={control.name} control={control} />
          ))}
        </div>
        <StopField />
        <SchemaField />
        <button type="button" class="plain" data-testid="reset-settings" onClick={() => settings.change({ sampling: {} })}>
          Use the model’s own values
        </button>
        {open === null ? null : (
          <button type="button" class="plain" data-testid="settings-for-new" onClick={() => settings.useForNew()}>
            Use these for new conversations too
          </button>
        )}
        <hr />
        <LanguageField />
      </form>
    </Drawer>
  );
}
